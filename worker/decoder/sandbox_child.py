"""The process in which scans are decoded that may do harm: `python -m worker.decoder.sandbox_child MEMORY_BYTES CPU_S`.

It takes requests on stdin and answers on stdout, one at a time, until stdin ends. It knows no setting, opens no file
and no connection, and has nothing to lose: whoever started it starts another where it dies (`worker.decoder.sandbox`).
"""

import json
import math
import os
import resource
import struct
import sys
from dataclasses import asdict
from typing import IO, Any

from nightread.inference.content import Content, decode_content
from nightread.model.card import Gate
from nightread.process_limits import limit_process
from nightread.scan.acquisition import Accepted
from nightread.scan.preprocessing import InputSpec

#: The length of a header, before it; headers are JSON, and what follows a header is as long as it says.
LENGTH = struct.Struct("<Q")


def read_exactly(stream: IO[bytes], count: int) -> bytes:
    """Return `count` bytes.

    Raises:
        EOFError: the other side is gone.
    """
    data = stream.read(count)
    if len(data) != count:
        raise EOFError
    return data


def main() -> None:
    """Answer requests until there are no more."""
    import nightread.scan.dicom  # noqa: F401  # all of it now: later there may be too little memory to import it

    memory_bytes, cpu_s = map(int, sys.argv[1:])
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # a decoder written in C may print
        os.dup2(nothing, descriptor)
    os.close(nothing)
    limit_process(memory_bytes)
    _send(answers, {"ready": True})
    while True:
        try:
            header = json.loads(read_exactly(requests, *LENGTH.unpack(read_exactly(requests, LENGTH.size))))
            data = read_exactly(requests, header["size"])
        except EOFError:
            return
        spec = InputSpec.model_validate(header["spec"])
        gate = None if header["gate"] is None else Gate.model_validate(header["gate"])
        accepted = Accepted(frozenset(header["modalities"]), header["for_processing"])
        _limit_cpu(cpu_s)
        _answer(answers, decode_content(data, spec, header["max_pixels"], gate, accepted))
        del data


def _limit_cpu(cpu_s: int) -> None:
    """Let the next request use so much processor time; beyond it the kernel ends this process (SIGXCPU)."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(usage.ru_utime + usage.ru_stime) + cpu_s, hard))


def _answer(answers: IO[bytes], decoded: Content) -> None:
    tensor = b"" if decoded.tensor is None else decoded.tensor.tobytes()
    header = {
        "reason": decoded.reason,
        "text": decoded.text,
        "acquisition": None if decoded.acquisition is None else asdict(decoded.acquisition),
        "rule": decoded.rule,
        "contradictions": sorted(decoded.contradictions),
        "finding": None if decoded.finding is None else [decoded.finding.reason, decoded.finding.text],
        "size": len(tensor),
    }
    _send(answers, header, tensor)


def _send(answers: IO[bytes], header: dict[str, Any], body: bytes = b"") -> None:
    encoded = json.dumps(header).encode()
    answers.write(LENGTH.pack(len(encoded)) + encoded + body)
    answers.flush()


if __name__ == "__main__":
    main()
