/**
 * A conversation in sound with the sandbox, which says back what it hears. It talks to the gateway at `GATEWAY_URL`, by default
 * http://127.0.0.1:8080. Run it with `npx node scratchpad/12-realtime.ts`, or with a WAV file of 24 kHz, 16 bit, one channel:
 * `npx node scratchpad/12-realtime.ts question.wav`; what is said in answer is then in `answer.pcm`.
 */
// @effect-diagnostics globalConsole:off processEnv:off
import { readFileSync, writeFileSync } from "node:fs"
import { WebSocket } from "ws"

const url = process.env["GATEWAY_URL"] ?? "http://127.0.0.1:8080"
const model = process.env["GATEWAY_REALTIME_MODEL"] ?? "sandbox::realtime"
const key = process.env["GATEWAY_KEY"] ?? "none"
const file = process.argv[2]

/** Bytes of a second. */
const second = 48_000
const wavHeader = 44

/** Half a second of the concert pitch. */
const tone = (): Buffer => {
  const samples = Buffer.alloc(second / 2)
  for (let at = 0; at < samples.length / 2; at++) {
    samples.writeInt16LE(Math.round(8_000 * Math.sin(2 * Math.PI * 440 * at / 24_000)), at * 2)
  }
  return samples
}

const sound = file === undefined ? tone() : readFileSync(file).subarray(wavHeader)
const answer: Array<Buffer> = []

const socket = new WebSocket(`${url.replace(/^http/, "ws")}/v1/realtime?model=${encodeURIComponent(model)}`, {
  headers: { authorization: `Bearer ${key}` }
})
const say = (event: object): void => socket.send(JSON.stringify(event))

socket.on("open", () => {
  // As a microphone would: 20 ms in each event.
  for (let at = 0; at < sound.length; at += second / 50) {
    say({ type: "input_audio_buffer.append", audio: sound.subarray(at, at + second / 50).toString("base64") })
  }
  say({ type: "input_audio_buffer.commit" })
  say({ type: "response.create" })
})
socket.on("message", (data: Buffer) => {
  const event = JSON.parse(data.toString())
  switch (event.type) {
    case "conversation.item.input_audio_transcription.completed":
      return console.log(`you: ${event.transcript}`)
    case "response.output_audio.delta":
      return answer.push(Buffer.from(event.delta, "base64"))
    case "response.output_audio_transcript.done":
      return console.log(`sandbox: ${event.transcript}`)
    case "response.done": {
      const heard = Buffer.concat(answer)
      console.log(`${heard.length / second} s of sound, ${event.response.usage.total_tokens} tokens`)
      if (file !== undefined) writeFileSync("answer.pcm", heard)
      return socket.close(1000)
    }
    case "error":
      return console.log(`error: ${event.error.message}`)
  }
})
socket.on("close", (code) => console.log(`closed with ${code}`))
