"""The scalars that TensorBoard shows for the event files of a run."""

import struct

from tensorboardX.proto.event_pb2 import Event


def points(directory):
    """{(tag, step): value} as in TensorBoard, where a restart at a step hides later values."""
    shown = {}
    for path in sorted(directory.iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 12 + length + 4
            if event.HasField("session_log"):
                shown = {key: value for key, value in shown.items() if key[1] < event.step}
            for value in event.summary.value:
                shown[value.tag, event.step] = value.simple_value
    return shown
