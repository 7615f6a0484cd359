"""Settings: strict YAML with positions, bound to dataclasses, with every mistake collected.

The order of use: `document` (or `documents`) makes nodes of a file, `bind` (or a `Binder`) makes a dataclass of a node,
both note what is wrong in one `Complaints`, and `schema` prints the same dataclasses for editors.
"""

from gateway.settings.binder import Binder, bind, path_text, plain
from gateway.settings.complaints import Complaint, Complaints
from gateway.settings.schema import schema
from gateway.settings.types import Secret
from gateway.settings.yaml import MappingNode, Node, ScalarNode, SequenceNode, document, documents

__all__ = [
    "Binder",
    "Complaint",
    "Complaints",
    "MappingNode",
    "Node",
    "ScalarNode",
    "Secret",
    "SequenceNode",
    "bind",
    "document",
    "documents",
    "path_text",
    "plain",
    "schema",
]
