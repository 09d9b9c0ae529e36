"""Speech from a misotts server with Triton's own gRPC client."""

import queue

import numpy as np
import tritonclient.grpc as triton

text = triton.InferInput("TEXT", [1], "BYTES")
text.set_data_from_numpy(np.array([b"Good morning. How are you today?"], np.object_))
answers: queue.Queue = queue.Queue()
with triton.InferenceServerClient("localhost:8001") as client:
    client.start_stream(
        callback=lambda result, error: answers.put((result, error)),
        headers={"authorization": "Bearer any-key"},  # necessary only where the server has a file of keys
    )
    client.async_stream_infer("misotts", [text])
    finish = b""
    while not finish:
        result, error = answers.get()
        if error is not None:
            raise error
        audio = result.as_numpy("AUDIO")  # float32 [samples], 24 kHz mono; each chunk comes as it is generated
        finish = result.as_numpy("FINISH")[0]  # empty until the last chunk
        print(len(audio), "samples", finish.decode())
