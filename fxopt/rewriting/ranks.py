"""Ranks, dtypes and sizes of pattern arguments, found by running the pattern.

A pattern says nothing of ranks, but its first use of an argument mostly does: `conv2d(x, w, b)` takes 4, 4
and 1. Arguments are therefore lazy; at the first op that reads one, ranks (then dtypes) are tried until the
op accepts them, and a later failure steps back to the next choice. All sizes of what one op reads first are
equal, so that everything broadcasts: 4, else a number that the pattern itself names.

>>> import torch
>>> tensors = find_arguments(lambda x, w: torch.layer_norm(x, [16], w), ["x", "w"], {}, ["x", "w"])
>>> {name: list(t.shape) for name, t in tensors.items()}
{'x': [16, 16, 16], 'w': [16]}

They run on the meta device, which is ten times as fast as fake tensors; where an op has no meta kernel, on
fake ones.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType

import torch
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree as pytree

from fxopt.ops import op_info

__all__ = ["find_arguments"]

_RANKS = (2, 4, 3, 1, 5, 0)
_DTYPES = (torch.float32, torch.int64, torch.bool)
_SIZE = 4
_ATTEMPTS = 300
_MOST_SIZES = 12
_LARGEST_SIZE = 1 << 20


class _DeadEnd(Exception):
    """No choice of ranks suits an op."""


class _Lazy:
    """An argument whose rank is decided at its first use."""

    def __init__(self, search: "_Search", name: str) -> None:
        self._search, self._name = search, name

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        lazy = next(a for a in pytree.tree_leaves((args, kwargs or {})) if isinstance(a, _Lazy))
        return lazy._search.call(func, args, dict(kwargs or {}))

    def __getattr__(self, name: str) -> object:
        attribute = getattr(torch.Tensor, name)
        if callable(attribute):
            return lambda *args, **kwargs: self._search.call(attribute, (self, *args), kwargs)
        return self._search.call(lambda t: getattr(t, name), (self,), {})


def _dunder(name: str) -> Callable[..., object]:
    def method(self: _Lazy, *args: object) -> object:
        return self._search.call(getattr(torch.Tensor, name), (self, *args), {})

    return method


_OPERATORS = (
    "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow matmul rmatmul neg "
    "pos abs and rand or ror xor rxor invert lshift rshift eq ne lt le gt ge getitem len "
)
for _name in _OPERATORS.split():
    setattr(_Lazy, f"__{_name}__", _dunder(f"__{_name}__"))
_Lazy.__hash__ = object.__hash__  # type: ignore[method-assign]


class _Search:
    """Depth-first search over the choices, replayed from the start after each dead end."""

    def __init__(
        self, device: str, named: tuple[int, ...], sizes: Mapping[str, Mapping[int, int]], thorough: bool
    ) -> None:
        self.device = device
        self.named, self.sizes, self.thorough = named, sizes, thorough
        self.trail: list[int] = []
        self.position: int
        self.values: dict[str, torch.Tensor]
        self.lacks_kernel = False
        """Whether an op has no meta kernel."""

    def make(self, name: str, size: int, rank: int, dtype: torch.dtype) -> torch.Tensor:
        shape = [self.sizes.get(name, {}).get(i, size) for i in range(rank)]
        return torch.empty(shape, dtype=dtype, device=self.device)

    def call(
        self, func: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        leaves = pytree.tree_leaves((args, kwargs))
        unknown = list(
            dict.fromkeys(a._name for a in leaves if isinstance(a, _Lazy) and a._name not in self.values)
        )
        if not unknown:
            return self._apply(func, args, kwargs)
        start = self.trail[self.position] if self.position < len(self.trail) else 0
        choices = (
            (size, choice)
            for size in (_SIZE, *self.named)
            for choice in _choices(
                len(unknown), _sample_ranks(func, args, unknown), self.thorough and size == _SIZE
            )
        )
        for i, (size, choice) in enumerate(itertools.islice(choices, start, None), start):
            self.values |= {
                n: self.make(n, size, rank, dtype) for n, (rank, dtype) in zip(unknown, choice, strict=True)
            }
            try:
                result = self._apply(func, args, kwargs)
            except NotImplementedError:
                self.lacks_kernel = True
                continue
            except Exception:
                continue
            if self.position < len(self.trail):
                self.trail[self.position] = i
            else:
                self.trail.append(i)
            self.position += 1
            return result
        del self.trail[self.position :]
        raise _DeadEnd

    def _apply(
        self, func: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        def known(a: object) -> object:
            return self.values[a._name] if isinstance(a, _Lazy) else a

        return func(*pytree.tree_map(known, args), **pytree.tree_map(known, kwargs))

    def run(
        self, function: Callable[..., object], arguments: Mapping[str, object]
    ) -> dict[str, torch.Tensor] | str:
        """Values for the lazy arguments under which the function runs, or why there are none."""
        why = "no ranks suit it"
        for _ in range(_ATTEMPTS):
            self.position, self.values = 0, {}
            lazy = [_Lazy(self, n) if v is _Lazy else v for n, v in arguments.items()]
            try:
                function(*lazy)
            except _DeadEnd:
                pass
            except Exception as error:
                self.lacks_kernel |= isinstance(error, NotImplementedError)
                why = (str(error).strip().splitlines() or [type(error).__name__])[0]
                del self.trail[self.position :]
            else:
                return self.values
            if not self.trail:
                return why
            self.trail[-1] += 1
        return why


_Choice = tuple[tuple[int, torch.dtype], ...]


def _choices(count: int, samples: Iterable[_Choice], thorough: bool) -> Iterable[_Choice]:
    """Ranks of several arguments: the op table's, equal ones; if thorough, mixtures and other dtypes."""
    yield from samples
    for rank in _RANKS:
        yield ((rank, torch.float32),) * count
    if not thorough:
        return
    if count > 1:
        for ranks in itertools.product(_RANKS, repeat=min(count, 4)):
            filled = (*ranks, *([ranks[-1]] * (count - len(ranks))))
            yield tuple((r, torch.float32) for r in filled)
    for dtype in _DTYPES[1:]:
        for which in range(count):
            for rank in _RANKS:
                yield tuple((rank, dtype if i == which else torch.float32) for i in range(count))
        for rank in _RANKS:
            yield ((rank, dtype),) * count


def _sample_ranks(func: Callable[..., object], args: tuple[object, ...], unknown: list[str]) -> list[_Choice]:
    """What the op table's sample calls give for the unknown arguments, if the function is named as an op."""
    samples = op_info(f"aten.{getattr(func, '__name__', '')}").samples
    found: dict[_Choice, None] = {}
    for sample, _ in samples() if samples is not None else ():
        by_name = {
            a._name: (v.dim(), torch.float32 if v.is_floating_point() else v.dtype)
            for a, v in zip(args, sample, strict=False)
            if isinstance(a, _Lazy) and isinstance(v, torch.Tensor)
        }
        if all(n in by_name for n in unknown):
            found[tuple(by_name[n] for n in unknown)] = None
    return list(found)


def _named_sizes(function: Callable[..., object]) -> tuple[int, ...]:
    """Numbers that a function names, which sizes may have to be; products of two, for reshapes."""
    code = getattr(function, "__code__", None)
    values: list[object] = list(_constants(code)) if isinstance(code, CodeType) else []
    values += [c.cell_contents for c in getattr(function, "__closure__", None) or () if _is_filled(c)]
    names = code.co_names if isinstance(code, CodeType) else ()
    values += [getattr(function, "__globals__", {}).get(n) for n in names]
    values += vars(getattr(function, "__self__", None) or object).values()
    single = list(dict.fromkeys(v for v in pytree.tree_leaves(values) if type(v) is int and v > 1))
    products = dict.fromkeys(a * b for a, b in itertools.combinations(single, 2))
    sizes = [n for n in dict.fromkeys((*single, *products)) if n != _SIZE and n <= _LARGEST_SIZE]
    return tuple(sizes[:_MOST_SIZES])


def _constants(code: CodeType) -> Iterator[object]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _constants(constant)
        else:
            yield constant


def _is_filled(cell: object) -> bool:
    try:
        cell.cell_contents  # type: ignore[attr-defined]  # noqa: B018
    except ValueError:
        return False
    return True


def find_arguments(
    function: Callable[..., object],
    tensors: Iterable[str],
    literals: Mapping[str, object],
    names: Iterable[str],
    *,
    sizes: Mapping[str, Mapping[int, int]] | None = None,
    thorough: bool = True,
) -> dict[str, torch.Tensor] | str:
    """Tensors without values for the tensor arguments of a pattern under which it runs.

    Args:
        function: the pattern.
        tensors: names of its tensor arguments.
        literals: the values of the others.
        names: all arguments in order.
        sizes: other sizes by argument and axis.
        thorough: try every mixture of ranks, not only the likely ones.

    Returns:
        The tensors by name, or the last complaint of the pattern.
    """
    lazy = set(tensors)
    arguments: dict[str, object] = {n: _Lazy if n in lazy else literals.get(n) for n in names}
    modes: tuple[tuple[str, contextlib.AbstractContextManager[object]], ...]
    modes = (("meta", torch.device("meta")), ("cpu", FakeTensorMode()))
    for device, mode in modes:
        search = _Search(device, _named_sizes(function), sizes or {}, thorough)
        with mode, torch.no_grad():
            found = search.run(function, arguments)
        if not isinstance(found, str) or not search.lacks_kernel:
            break
    return found
