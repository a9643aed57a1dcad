"""What belongs to one side of a choice, on little graphs of letters."""

from fxopt.lowering.regions import choices


def uses(*edges: tuple[str, str, int]) -> dict[str, list[tuple[str, int]]]:
    found: dict[str, list[tuple[str, int]]] = {}
    for step, user, place in edges:
        found.setdefault(step, []).append((user, place))
    return found


def sides(order: str, edges, kept: str, *groups: str) -> list[tuple[str, str, str]]:
    made = choices(list(order), uses(*edges), set(kept), [list(g) for g in groups])
    return [("".join(c.selections), "".join(c.first), "".join(c.second)) for c in made]


def test_a_chain_on_each_side():
    edges = [("a", "b", 0), ("b", "p", 1), ("c", "p", 2)]
    assert sides("abcp", edges, "p", "p") == [("p", "ab", "c")]


def test_what_both_sides_or_the_predicate_need_stays_outside():
    edges = [("a", "b", 0), ("a", "c", 0), ("b", "p", 1), ("c", "p", 2), ("d", "p", 0), ("d", "c", 0)]
    assert sides("adbcp", edges, "p", "p") == [("p", "b", "c")]


def test_what_is_returned_or_used_elsewhere_stays_outside():
    edges = [("a", "p", 1), ("b", "p", 2), ("b", "x", 0)]
    assert sides("abpx", edges, "pa", "p") == []


def test_two_selections_at_once():
    edges = [("a", "b", 0), ("a", "c", 0), ("b", "p", 1), ("c", "q", 1)]
    assert sides("abcpq", edges, "pq", "pq") == [("pq", "abc", "")]


def test_a_selection_that_needs_the_other_is_within_it():
    edges = [("a", "p", 1), ("p", "b", 0), ("b", "q", 1)]
    assert sides("apbq", edges, "q", "pq") == [("q", "pb", ""), ("p", "a", "")]


def test_a_choice_within_a_choice():
    edges = [("a", "p", 1), ("b", "p", 2), ("p", "q", 1), ("c", "q", 2)]
    assert sides("abpcq", edges, "q", "p", "q") == [("q", "p", "c"), ("p", "a", "b")]
