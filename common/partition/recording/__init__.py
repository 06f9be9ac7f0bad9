"""Cut models whose Python control flow no tracer can follow: run them for real, and stop or skip in the middle.

`record` notes the torch calls of one forward pass as steps. `recorded_parts` makes the parts of a model: each runs
the model's own Python code, the head up to its cut, the tail with all calls before the cut left out and the tensors
that crossed put in their place. What the tail's Python has to know besides, shapes and numbers above all, crosses in
one small tensor, the journey.
"""

from common.partition.recording.cutting import recorded_parts
from common.partition.recording.record import Recording, record

__all__ = ["Recording", "record", "recorded_parts"]
