"""How chat templates become Python code.

jinja calls the environment for every attribute and every method. Here the commonest are written out in full, for exact
types whose keys and methods the sandbox would let pass::

    environment.getattr(message, 'role')
    ((o_1['role'] if 'role' in o_1 else environment.absent['role']) if type(o_1 := message) is dict
        else environment.getattr(o_1, 'role'))
"""

from jinja2 import Undefined, nodes
from jinja2.compiler import CodeGenerator, Frame, optimizeconst
from jinja2.sandbox import ImmutableSandboxedEnvironment

from extproc.prompt.list_loop import LOOP_COUNTERS
from extproc.prompt.template_context import TemplateContext

# These two lead to attributes of their arguments, which the sandbox checks.
TEXT_METHODS = frozenset(name for name in dir(str) if not name.startswith("_")) - {"format", "format_map"}


class _FastCode(CodeGenerator):
    """Writes the code of a template."""

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:  # noqa: N802
        # What attributes are set of; only these are read as namespaces.
        self._namespaces = {reference.name for reference in node.find_all(nodes.NSRef)}
        super().visit_Template(node, frame)
        self.writeline("from extproc.prompt.list_loop import ListLoop, loop_over as LoopContext")
        self.writeline("from extproc.prompt.sandbox import JSON_TYPES, ChatNamespace, read_plainly")

    def visit_Output(self, node: nodes.Output, frame: Frame) -> None:  # noqa: N802
        plain_text = frame.buffer is None and not (
            frame.require_output_check or frame.eval_ctx.autoescape or frame.eval_ctx.volatile
        )
        others: list[nodes.Expr] = []
        for child in node.nodes:
            if plain_text and (terms := _wide_sum(child)):
                if others:
                    super().visit_Output(nodes.Output(others, lineno=node.lineno), frame)
                    others = []
                self._write_terms(child, terms, frame)
            else:
                others.append(child)
        if others:
            super().visit_Output(nodes.Output(others, lineno=node.lineno), frame)

    def visit_NSRef(self, node: nodes.NSRef, frame: Frame) -> None:  # noqa: N802
        if node.attr.startswith("_"):
            super().visit_NSRef(node, frame)
        else:
            # That it is a namespace has just been checked, and templates can only make those of ours.
            self.writeline(f"read_plainly({frame.symbols.ref(node.name)}, '_Namespace__attrs')[{node.attr!r}]")

    @optimizeconst
    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:  # noqa: N802
        if isinstance(node.node, nodes.Name) and node.node.name == "loop" and node.attr in LOOP_COUNTERS:
            value = self._new_name()
            self.write(f"({value}.{node.attr} if type({value} := ")
            self.visit(node.node, frame)
            self.write(f") is ListLoop else environment.getattr({value}, {node.attr!r}))")
        elif hasattr(dict, node.attr):
            super().visit_Getattr(node, frame)
        else:
            self._write_key(node.node, node.attr, frame, otherwise="getattr")

    @optimizeconst
    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        key = node.arg.value if isinstance(node.arg, nodes.Const) else None
        if type(key) is str and not hasattr(dict, key):
            self._write_key(node.node, key, frame, otherwise="getitem")
        else:
            super().visit_Getitem(node, frame)

    @optimizeconst
    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:  # noqa: FBT001, FBT002, N802
        method = node.node
        plain = not (node.kwargs or node.dyn_args or node.dyn_kwargs or forward_caller)
        if not (
            plain
            and isinstance(method, nodes.Getattr)
            and method.attr in TEXT_METHODS
            and all(_is_short(argument) for argument in node.args)
        ):
            super().visit_Call(node, frame, forward_caller=forward_caller)
            return
        value = self._new_name()
        self.write(f"({value}.{method.attr}(")
        for argument in node.args:
            self.visit(argument, frame)
            self.write(", ")
        self.write(f") if type({value} := ")
        self.visit(method.node, frame)
        self.write(f") is str else environment.call(context, environment.getattr({value}, {method.attr!r})")
        scopes = {"_loop_vars": frame.loop_frame, "_block_vars": frame.block_frame}
        self.signature(node, frame, {name: name for name, used in scopes.items() if used})
        self.write("))")

    @optimizeconst
    def visit_Add(self, node: nodes.BinExpr, frame: Frame) -> None:  # noqa: N802
        terms = _terms(node)
        if len(terms) < 3 or not _texts(terms):  # noqa: PLR2004
            super().visit_Add(node, frame)
            return
        # Copies a long text once instead of with every term.
        names = self._named(terms)
        joined = " ".join(
            name if isinstance(term, nodes.Const) else f"f'{{{name}}}'" for term, name in zip(terms, names, strict=True)
        )
        self.write(f"({joined} if ")
        self._write_test(terms, names, frame)
        self.write(f" else {' + '.join(names)})")

    def _write_terms(self, node: nodes.Expr, terms: list[nodes.Expr], frame: Frame) -> None:
        """Write out the terms of a sum one by one where they are texts.

        Their sum would have two bytes or more for every letter, as some letters need that, and be slow to convert.
        """
        names = self._named(terms)
        self.writeline("if ", node)
        self._write_test(terms, names, frame)
        self.write(":")
        self.indent()
        for name in names:
            self.writeline(f"yield {name}")
        self.outdent()
        self.writeline("else:")
        self.indent()
        self.writeline(f"yield str({' + '.join(names)})")
        self.outdent()

    def _named(self, terms: list[nodes.Expr]) -> list[str]:
        """Return what stands for each term: the literal of a text, or a new name."""
        return [repr(term.value) if isinstance(term, nodes.Const) else self._new_name() for term in terms]

    def _write_test(self, terms: list[nodes.Expr], names: list[str], frame: Frame) -> None:
        """Give the terms their names, and ask whether all of them are texts."""
        position = 0
        for term, name in zip(terms, names, strict=True):
            if isinstance(term, nodes.Const):
                continue
            # `&`, since the sum needs all values in any case.
            self.write(f"{' & ' if position else ''}(type({name} := ")
            self.visit(term, frame)
            self.write(") is str)")
            position += 1

    def _write_key(self, of: nodes.Expr, key: str, frame: Frame, *, otherwise: str) -> None:
        environment = self.environment
        assert isinstance(environment, CompilingEnvironment)
        environment.absent.setdefault(key, environment.undefined(obj={}, name=key))
        value = self._new_name()
        if isinstance(of, nodes.Name) and of.name in self._namespaces and not key.startswith("_"):
            found = self._new_name()
            self.write(f"({found} if type({value} := ")
            self.visit(of, frame)
            self.write(f") is ChatNamespace and type({found} := read_plainly({value}, '_Namespace__attrs')")
            self.write(f".get({key!r}, missing)) in JSON_TYPES else environment.{otherwise}({value}, {key!r}))")
            return
        self.write(f"(({value}[{key!r}] if {key!r} in {value} else environment.absent[{key!r}]) if type({value} := ")
        self.visit(of, frame)
        self.write(f") is dict else environment.{otherwise}({value}, {key!r}))")

    def _new_name(self) -> str:
        # One for each place: the value is still needed when what stands beside it has been worked out.
        self._names_given = getattr(self, "_names_given", 0) + 1
        return f"o_{self._names_given}"


class CompilingEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, with faster code.

    ``absent`` holds, for every constant key in a template, what reading it gives where a dict lacks it. An undefined
    value tells no more than the key and the type of what lacks it, so one serves for all dicts.
    """

    code_generator_class = _FastCode
    context_class = TemplateContext
    absent: dict[str, Undefined]

    def __init__(self, *, extensions: tuple[type, ...]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        self.absent = {}


def _terms(node: nodes.Expr) -> list[nodes.Expr]:
    terms = []
    while isinstance(node, nodes.Add):
        terms.append(node.right)
        node = node.left
    return [node, *reversed(terms)]


def _texts(terms: list[nodes.Expr]) -> list[str]:
    """Return the constants of a sum that is not constant itself, if there are some and all of them are texts."""
    texts = [term.value for term in terms if isinstance(term, nodes.Const)]
    return texts if len(texts) < len(terms) and all(type(text) is str for text in texts) else []


def _wide_sum(node: nodes.Expr) -> list[nodes.Expr]:
    """Return the terms of a sum that has a constant with other letters than ASCII, else nothing."""
    terms = _terms(node)
    return terms if any(not text.isascii() for text in _texts(terms)) else []


def _is_short(argument: nodes.Expr) -> bool:
    """Whether an argument may be written twice: constants, variables, and keys of these."""
    while isinstance(argument, nodes.Getattr | nodes.Getitem):
        if isinstance(argument, nodes.Getitem) and not isinstance(argument.arg, nodes.Const):
            return False
        argument = argument.node
    return isinstance(argument, nodes.Const | nodes.Name)
