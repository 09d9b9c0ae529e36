# Speech as an MP3 file.
curl localhost:8080/v1/audio/speech -H "authorization: Bearer $MISOTTS_API_KEY" -H "content-type: application/json" \
  -d '{"input": "Good morning. How are you today?", "voice": "alloy"}' --fail -o morning.mp3

# Speech as raw mu-law at 8 kHz for a telephone, while it is generated.
curl localhost:8080/v1/audio/speech -H "authorization: Bearer $MISOTTS_API_KEY" -H "content-type: application/json" \
  -d '{"input": "Good morning. How are you today?", "response_format": "mulaw"}' --fail --no-buffer -o morning.ulaw

# The voices.
curl localhost:8080/v1/audio/voices -H "authorization: Bearer $MISOTTS_API_KEY" --fail -o voices.json
