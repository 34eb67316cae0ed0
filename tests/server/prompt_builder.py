"""A prompt made from a workflow file, with the few edits that tests need."""

import copy
from typing import Any

from comfy_workflow import Prompt, nodes_of, to_prompt


class PromptBuilder:
    """`nodes` is the prompt in API form, `workflow` the file's content it came from."""

    def __init__(self, workflow: dict[str, Any], object_info: dict[str, Any]) -> None:
        self.workflow = copy.deepcopy(workflow)
        self.nodes: Prompt = to_prompt(self.workflow, object_info)

    def id(self, class_type: str) -> str:
        """The only node of a class; the name of a node that was added stands for itself."""
        if class_type in self.nodes:
            return class_type
        (node_id,) = nodes_of(self.nodes, class_type)
        return node_id

    def set(self, class_type: str, **inputs: Any) -> None:
        """Replace widget values or links of the only node of a class."""
        self.nodes[self.id(class_type)]["inputs"].update(inputs)

    def add(self, node_id: str, class_type: str, **inputs: Any) -> None:
        self.nodes[node_id] = {"class_type": class_type, "inputs": inputs}
