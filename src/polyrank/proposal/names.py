"""What the name of a column says about it, in English and in Chinese."""

from __future__ import annotations

from polyrank.data.check.position import WORDS

EVENTS = (
    "view", "viewed", "watched", "click", "clicked", "clk", "cart", "atc", "favorite", "fav",
    "collect", "buy", "bought", "purchase", "purchased", "paid", "order", "ordered", "conversion",
    "converted", "like", "liked", "follow", "followed", "share", "shared", "comment", "forward",
    "hide", "dislike", "hate", "subscribe", "install", "signup", "income", "enter", "label",
    "target", "点击", "购买", "下单", "加购", "收藏", "点赞", "关注", "分享", "评论", "转发",
    "转化",
)  # fmt: skip
# Events that follow each other, whatever the log.
FUNNEL = (
    ("click", "clicked", "clk", "点击"),
    ("cart", "atc", "加购"),
    ("buy", "bought", "purchase", "purchased", "paid", "购买"),
)
# How an event that happened, and one that did not, stand in text.
YES_NO = (("yes", "no"), ("y", "n"), ("true", "false"), ("t", "f"), ("是", "否"))
# A column with one of these tells of the time before the impression, or of many of them.
PAST = (
    "hist", "history", "past", "last", "prev", "previous", "before", "avg", "mean", "rate", "ctr",
    "cvr", "count", "cnt", "num", "total", "days", "day", "历史", "过去", "上次", "次数",
)  # fmt: skip
# How long it took until something came, or was looked for: known only afterwards.
AFTERWARDS = ("delay", "delayed", "lag", "elapsed", "延迟", "迟到")
# A column of exactly this name holds a person.
PERSONS = ("user", "uid", "member", "visitor", "customer", "用户", "会员")
USERS = (*PERSONS, "device")  # with an id; a bare device is a model of phone
REQUESTS = ("request", "req", "impression", "search", "query", "slate", "session", "请求", "会话")
TIMES = ("time", "timestamp", "ts", "date", "datetime", "day", "时间", "日期")
POSITIONS = (*WORDS, "位置")
IDS = (
    "id", "code", "category", "cat", "brand", "city", "zip", "hour", "type", "编号", "类目", "品牌",
)  # fmt: skip
NUMBERS = (
    "price", "age", "count", "cnt", "num", "amount", "score", "ratio", "rate", "ctr", "cvr",
    "wage", "gains", "losses", "dividends", "weeks", "hours",
    "duration", "length", "avg", "mean", "sum", "total", "days", "价格", "年龄", "数量", "时长",
)  # fmt: skip
