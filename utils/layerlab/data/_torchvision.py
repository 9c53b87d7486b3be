"""Importing torchvision where its compiled operators do not load.

A torchvision wheel built for another build of torch (the package index's, beside a CPU-only torch) cannot
load its compiled library, and then `import torchvision` fails with "operator torchvision::nms does not
exist": it registers shape rules for two operators that nothing has declared. The data sets need neither.
Declaring the two signatures is enough for the import to pass; calling the operators still fails, as it must.
"""

import sys
from types import ModuleType

import torch

_declared: list[torch.library.Library] = []  # a declaration lasts as long as its Library object


def torchvision() -> ModuleType:
    """The module `torchvision`; ModuleNotFoundError, saying how to install it, where there is none."""
    try:
        import torchvision
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "torchvision is not installed: `pip install torchvision`, in the version for this torch "
            f"({torch.__version__}); see https://pytorch.org/get-started/locally"
        ) from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # what the failed import left behind
        import torchvision
    return torchvision
