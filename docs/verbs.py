"""A directive of Sphinx: the options of every verb, as the command line itself knows them."""

import argparse
import re
import textwrap

from docutils import nodes
from docutils.parsers.rst import Directive

from edgerev.cli import VERBS, verb_parser


def benchmarks(parser):
    """Return (name, help, parser) of each parser within a parser."""
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            found += [(name, helps[name], sub) for name, sub in action.choices.items()]
    return found


def option(action):
    """Return how an option or an argument is written."""
    choices = "{" + ",".join(map(str, action.choices or ())) + "}"
    if not action.option_strings:
        return str(action.metavar or action.dest)
    value = action.metavar or (choices if action.choices else action.dest.upper())
    return ", ".join(action.option_strings) + (f" {value}" if action.nargs != 0 else "")


def actions(parser):
    """Return what a parser takes, without --help and without the parsers within it."""
    left_out = (argparse._HelpAction, argparse._SubParsersAction)
    return [action for action in parser._actions if not isinstance(action, left_out)]


class Verbs(Directive):
    """``.. verbs::``: a section for each verb."""

    def run(self):
        """Return the sections."""
        return [self.section(verb, text, verb_parser(verb)) for verb, text in VERBS.items()]

    def section(self, name, text, parser):
        """Return a section with heading, usage, options, and the parsers within this one."""
        title = parser.prog.removeprefix("edgerev ")
        section = nodes.section(ids=[nodes.make_id(f"verb {title}")], names=[f"edgerev {title}"])
        self.state.document.note_explicit_target(section)
        words = " ".join(parser.format_usage().removeprefix("usage: ").split()).replace(" edgerev ", "\nedgerev ")
        words = re.sub(r"\[[^]]*\]", lambda found: found[0].replace(" ", "\0"), words)  # an option stays whole
        lines = [part for line in words.splitlines() for part in textwrap.wrap(line, 84, subsequent_indent=" " * 8)]
        words = "\n".join(lines).replace("\0", " ")
        section += [nodes.title(text=f"edgerev {title}"), sentence(text)]
        section += nodes.literal_block(words, words, language="text")
        if actions(parser):
            section += self.table(parser)
        if parser.epilog:
            section += sentence(parser.epilog)
        section += [self.section(name, text, sub) for name, text, sub in benchmarks(parser)]
        return section

    def table(self, parser):
        """Return a table of what a parser takes."""
        group = nodes.tgroup("", nodes.colspec(colwidth=2), nodes.colspec(colwidth=3), cols=2)
        body = nodes.tbody()
        for action in actions(parser):
            words = nodes.paragraph("", "", nodes.literal(text=option(action)))
            entries = [nodes.entry("", words), nodes.entry("", sentence(action.help or ""))]
            body += nodes.row("", *entries)
        group += body
        return nodes.table("", group)


def sentence(text):
    """Return a help line as argparse would show it, as a sentence, with its code set apart and its pages linked."""
    text = text.replace("%%", "%")
    text = text if text.startswith(("docs/", "`", "-")) else text[:1].upper() + text[1:]
    text += "." * (not text.endswith((".", ")")))
    paragraph = nodes.paragraph()
    for part in re.split(r"(`[^`]+`|(?<![\w-])--[a-z-]+|docs/[\w-]+\.md)", text):
        if part.startswith(("`", "--")):
            paragraph += nodes.literal(text=part.strip("`"))
        elif part.startswith("docs/"):
            page = part.removeprefix("docs/").removesuffix(".md")
            paragraph += nodes.reference(text=part, refuri=f"{page}.html")
        else:
            paragraph += nodes.Text(part)
    return paragraph


def setup(app):
    """Register the directive."""
    app.add_directive("verbs", Verbs)
    return {"parallel_read_safe": True}
