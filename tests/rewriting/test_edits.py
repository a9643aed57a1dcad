"""What a rewrite leaves: sources of what stays, names of weights that follow others, sizes read anew."""

import pytest
import torch

from fxopt.errors import PassError
from fxopt.program import Program, origins_of
from fxopt.rewriting import Rewriter, Rule, apply_rules
from fxopt.rewriting.edits import WeightNames
from fxopt.rewriting.journal import failed_rewrite
from fxopt.testing import ProgramBuilder
from tests.passes.helpers import calls, program, rand


def test_what_is_made_comes_from_what_it_replaces_even_if_that_stays() -> None:
    p = program(lambda x: x.neg().relu().abs(), rand(2)).copy()
    rewriter = Rewriter(p)
    neg, relu = rewriter.nodes()[:2]
    with rewriter.rewrite("r", relu):
        made = rewriter.call("aten.exp", neg)
        rewriter.replace(neg, made)
    assert calls(p) == ["neg", "exp", "relu", "abs"]
    assert {o.op for o in origins_of(made)} >= {o.op for n in (neg, relu) for o in origins_of(n)}
    assert set(origins_of(neg)) <= set(origins_of(made))
    assert set(origins_of(neg)) <= set(rewriter.journal.rewrites[0].origins)


def test_replace_takes_two_nodes() -> None:
    rewriter = Rewriter(program(lambda x: x.neg().relu(), rand(2)).copy())
    neg, relu = rewriter.nodes()
    for old, new in ((relu, None), (None, neg), (relu, "neg")):
        with pytest.raises(PassError, match=r"replace\(\) takes two nodes"), rewriter.rewrite("r", relu):
            rewriter.replace(old, new)  # type: ignore[arg-type]


def test_a_successor_has_the_names_of_what_it_follows() -> None:
    p = program(lambda x, w: x @ w, rand(2, 3), w=rand(3, 4)).copy()
    rewriter = Rewriter(p)
    (matmul,) = rewriter.nodes("aten.matmul")
    (old,) = p.weight_nodes()
    with rewriter.rewrite("r", matmul):
        new = rewriter.constant(p.weights["w"] * 2, successor_of=old)
        rewriter.replace(matmul, rewriter.call("aten.matmul", matmul.args[0], new))
    assert (new.target, list(p.weights)) == ("w", ["w"])
    assert new.name.startswith("w")  # it was "folded" while "w" was there


def reading(axis: int, swapped: bool = False) -> Program:
    """relu(neg(x)), expanded to sizes that are read of neg(x)."""
    b = ProgramBuilder()
    x = b.input((b.batch, 4))
    y = b.input((b.batch, 4))
    neg = b.call("aten.neg", b.call("aten.add.Tensor", y, x) if swapped else x)
    size = b.call("aten.sym_size.int", neg, axis)
    relu = b.call("aten.relu", neg)
    return b.finish(relu, b.call("aten.expand", b.call("aten.sum.dim_IntList", y, [0], True), [size, 4]))


def test_a_size_that_is_read_of_an_inner_value_is_read_of_an_argument() -> None:
    p = reading(0).copy()
    apply_rules(Rewriter(p), [Rule(lambda x: x.neg().relu(), lambda x: x.clamp(max=0.0).neg())])
    assert calls(p) == ["sym_size", "clamp", "neg", "sum", "expand"]
    (size,) = [n for n in p.calls() if "sym_size" in str(n.target)]
    assert size.args[0].op == "placeholder" and size.args[0].name == "x0" and size.args[1] == 0
    x, y = rand(3, 4), rand(3, 4, seed=1)
    out = p(x, y)
    assert isinstance(out, tuple)
    assert torch.equal(out[0], x.neg().relu()) and out[1].shape == (3, 4)


def test_a_size_is_not_read_of_an_argument_that_is_made_later() -> None:
    """The read stands before the second argument, so that only the first can serve it."""
    b = ProgramBuilder()
    x = b.input((b.batch, 4))
    neg = b.call("aten.neg", x)
    size = b.call("aten.sym_size.int", neg, 0)
    late = b.call("aten.expand", b.weight((1, 4)), [size, 4])
    p = b.finish(b.call("aten.add.Tensor", neg, late)).copy()

    def pattern(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x.neg() + y

    apply_rules(Rewriter(p), [Rule(pattern, lambda y, x: y - x)])
    assert calls(p) == ["sym_size", "expand", "sub"]
    assert [n.args[0].name for n in p.calls() if "sym_size" in str(n.target)] == ["x0"]
    value = rand(3, 4)
    torch.testing.assert_close(p(value), p.weights["w0"] - value)


def test_a_successor_has_the_other_names_too() -> None:
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)})
    module["b"].weight = module["a"].weight
    module.forward = lambda x: module["b"](module["a"](x))  # type: ignore[method-assign]
    p = program(module, rand(2, 3)).copy()
    assert p.ties == {"b.weight": "a.weight"}
    rewriter = Rewriter(p)
    old = next(n for n in p.weight_nodes() if n.target == "a.weight")
    first, second = rewriter.nodes("aten.linear")
    with rewriter.rewrite("r", second):
        new = rewriter.constant(p.weights["a.weight"] * 2, successor_of=old)
        for node in (first, second):
            rewriter.replace(node, rewriter.call("aten.linear", node.args[0], new, node.args[2]))
    assert (new.target, p.ties) == ("a.weight", {"b.weight": "a.weight"})


def test_an_error_inside_of_a_rewrite_says_in_which() -> None:
    rewriter = Rewriter(program(lambda x: x.neg().relu(), rand(2)).copy())
    (relu,) = rewriter.nodes("aten.relu")
    with pytest.raises(ValueError, match="why") as error, rewriter.rewrite("the rule", relu):
        raise ValueError("why")
    assert failed_rewrite(error.value) == ("the rule", "relu")


def test_a_name_below_which_another_stands_is_taken() -> None:
    names = WeightNames(program(lambda x: x.neg(), rand(2)))
    assert [names.unused(n) for n in ("conv.weight", "conv", "conv")] == ["conv.weight", "conv_1", "conv_2"]


def test_a_new_call_is_named_after_its_op() -> None:
    rewriter = Rewriter(program(lambda x: x.neg(), rand(2)).copy())
    (neg,) = rewriter.nodes()
    with rewriter.rewrite("r", neg):
        made = rewriter.call("aten.relu", neg.args[0])
        rewriter.replace(neg, made)
    assert made.name == "relu"


def test_the_journal_says_what_was_touched() -> None:
    p = program(lambda x: x.neg().relu().abs(), rand(2)).copy()
    rewriter = Rewriter(p)
    neg, relu, abs_ = rewriter.nodes()
    with rewriter.rewrite("r", relu):
        made = rewriter.call("aten.exp", neg)
        rewriter.replace(relu, made)
    assert rewriter.journal.touched == {made, relu, abs_}
