"""polyrank: multi-task ranking from impression logs.

One model predicts several outcomes of an impression (click, purchase, rating, watch time).

    import polyrank as pr
    bundle = pr.fit(schema, pr.ESMM(tower=[16, 8]), train="train.parquet", valid="valid.parquet")
    print(bundle.evaluate("test.parquet"))

The public names are those of `__init__.pyi`. Each is imported on first use, so that
`import polyrank` and `polyrank --help` do not wait for torch.
"""

from importlib.metadata import version

from lazy_loader import attach_stub

__version__ = version("polyrank")
_imported, __dir__, __all__ = attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name in __all__:
        return _imported(name)
    from polyrank.errors import did_you_mean

    hint = did_you_mean(name, __all__)
    raise AttributeError(f"module 'polyrank' has no attribute {name!r}{hint}")
