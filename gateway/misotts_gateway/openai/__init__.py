"""OpenAI's HTTP API: `POST /v1/audio/speech`, `/v1/audio/voices` and `/v1/models`, as OpenAI's clients speak them."""
