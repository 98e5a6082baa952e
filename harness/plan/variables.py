"""Which environment variables reach a task, and how.

A task that stratbench starts itself inherits all of them. A launcher such as ``horovodrun`` writes its own environment
to the command line of the workers that it starts, where ``ps`` shows it to every user of the host. So it gets only the
variables that are needed to start a process. Its workers read the rest from the stratbench process that started the
launcher. So a model sees the same variables under every strategy.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping, MutableMapping, Sequence

import psutil

from ...errors import RunError

PASS_VARIABLE = "STRATBENCH_PASS"
"""Names, separated by commas, of more variables for a launcher: they are visible on its command line."""

CLUSTER = "TF_CONFIG"
"""It describes a cluster of the user's shell, which is not the cluster of the run."""


def _names(text: str) -> list[str]:
    return text.split()


_PASSED = _names(
    "PATH HOME USER LOGNAME SHELL LANG LANGUAGE LC_* TZ TERM TMPDIR TEMP TMP HOSTNAME "
    "LD_* DYLD_* GLIBC_TUNABLES MALLOC_* TCMALLOC_* MIMALLOC_* "
    "PYTHON* VIRTUAL_ENV CONDA_* COVERAGE_* STRATBENCH_* "
    "CUDA_* NVIDIA_VISIBLE_DEVICES NVIDIA_DRIVER_CAPABILITIES NVIDIA_TF32_OVERRIDE NCCL_* CUDNN_* ROCR_* HIP_* "
    "TF_* XLA_* KERAS_* OMP_* GOMP_* KMP_* MKL_* DNNL_* ONEDNN_* OPENBLAS_* GOTO_* BLIS_* ABSL_* GRPC_* "
    "HOROVOD_* GLOO_* OMPI_* MPI_* MPIR_* I_MPI_* HYDRA_* FI_* UCX_* SSL_CERT_*"
)
_SECRET = re.compile(r"token|secret|passw|credential|(^|_)key(s|$)|api_?key|_var_", re.IGNORECASE)
"""Names above that may hold secrets: other programs use some prefixes too, as Terraform's ``TF_TOKEN_…``."""
_PLACE = _names(
    "HOROVOD_RANK HOROVOD_SIZE HOROVOD_LOCAL_RANK HOROVOD_LOCAL_SIZE HOROVOD_CROSS_* HOROVOD_HOSTNAME "
    "HOROVOD_GLOO_RENDEZVOUS_* OMPI_COMM_WORLD_* PMI_* PMIX_* MPI_LOCALRANKID MPI_LOCALNRANKS"
)
"""They describe the rank of stratbench itself, if it was started in a job, and not that of a worker."""
_KEPT_BACK = (CLUSTER, "OLDPWD", "BASH_FUNC_*", *_PLACE)


def for_launcher(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of ``environ`` that a launcher gets, which other users can see."""
    named = _named(environ)
    return {name: value for name, value in environ.items() if _is_passed(name, named)}


def for_task(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of ``environ`` that a task gets if stratbench starts it itself."""
    return {name: value for name, value in environ.items() if name != CLUSTER}


def take_rest(starter: int, environ: MutableMapping[str, str] = os.environ) -> None:
    """Add to ``environ`` the variables of the process ``starter`` that `for_launcher` left out.

    Raises RunError if that environment can't be read: without it, the model could differ from other strategies.
    """
    try:
        theirs = psutil.Process(starter).environ()
    except (psutil.Error, OSError) as error:
        raise RunError(
            f"a worker must be able to read the environment of the stratbench process that it works for. "
            f"Received: {error}."
        ) from None
    named = _named(theirs)
    for name, value in theirs.items():
        if not _is_passed(name, named) and not _matches(name, _KEPT_BACK):
            environ.setdefault(name, value)


def _named(environ: Mapping[str, str]) -> list[str]:
    return [name.strip() for name in environ.get(PASS_VARIABLE, "").split(",") if name.strip()]


def _is_passed(name: str, named: list[str]) -> bool:
    if _matches(name, _KEPT_BACK):
        return False
    return name in named or (_matches(name, _PASSED) and not _SECRET.search(name))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
