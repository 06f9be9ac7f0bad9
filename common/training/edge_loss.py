"""The loss at the edge, of a tail's outputs that come down: labels never leave (``--labels edge``)."""

import torch

from common.codec import Encoded
from common.errors import ProtocolError
from common.training.exchange import AS_IT_IS, Answer, Objective, Outgoing, Upload
from common.wire.framing import Frame
from common.wire.messages import OutputGradients, Outputs


def loss_of_outputs(
    objective: Objective, upload: Upload, frame: Frame, device: torch.device | str
) -> Outgoing | Answer:
    """The loss of the outputs in a frame: in training its gradients, to be sent; in an evaluation the answer.

    Args:
        objective: loss and number of right answers.
        upload: whose outputs they are, with the labels.
        frame: what came.
        device: where the loss is computed.

    Raises:
        ProtocolError: another message, or outputs of other samples.
    """
    message = frame.message
    if not isinstance(message, Outputs) or (message.step, message.training) != (upload.step, upload.training):
        raise ProtocolError(f"the peer sent {type(message).__name__} where the outputs of step {upload.step} were due")
    (outputs,) = AS_IT_IS.decode(Encoded(message.payload, frame.buffers))
    count = len(upload.labels)
    if not outputs.is_floating_point() or outputs.dim() < 1 or len(outputs) != count:
        raise ProtocolError(f"outputs of shape {tuple(outputs.shape)} came for {count} samples")
    outputs = outputs.to(device).requires_grad_(upload.training)
    with torch.set_grad_enabled(upload.training):
        loss, correct = objective(outputs, upload.labels.to(device))
    if not upload.training:
        return Answer(upload.step, False, loss.item(), correct, count, (), message.times)
    (gradients,) = torch.autograd.grad(loss, [outputs])
    encoded = AS_IT_IS.encode([gradients], upload.step)
    return Outgoing(OutputGradients(upload.step, loss.item(), correct, encoded.spec), encoded.buffers)
