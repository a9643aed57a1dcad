from torch.fx import Graph

from fxopt.verification.arguments import with_values


def test_every_container_is_walked():
    graph = Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    node = graph.call_function(print, ([x, (y, None)], {"k": x}, slice(x, 3, None)))
    replaced = [with_values(a, lambda n: n.name.upper()) for a in node.args]
    assert replaced == [["X", ("Y", None)], {"k": "X"}, slice("X", 3, None)]
    assert all(
        type(a) is not type(b) for a, b in zip(replaced[:2], node.args[:2], strict=True)
    )  # plain containers
