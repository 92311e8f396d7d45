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
__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
