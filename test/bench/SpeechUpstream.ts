/**
 * Servers for the bench of speech. Without options, an upstream that speaks (`/v1/audio/speech`: as many MiB as the model's name
 * ends in), listens (`/v1/audio/transcriptions`) and chats (a chunk every 5 ms); with `--pipe URL` a bare pipe to such a one.
 *
 * `node test/bench/SpeechUpstream.ts [--pipe URL]` prints `{"port":N}` when it listens.
 */
import { createServer, type IncomingMessage, request as send, type ServerResponse } from "node:http"
import { pipeline, Readable } from "node:stream"
import { parseArgs } from "node:util"

const { values } = parseArgs({ options: { pipe: { type: "string" } } })

const piece = Buffer.alloc(16 * 1024, 7)
const mib = 1024 * 1024

const speak = (body: string, response: ServerResponse): void => {
  const size = Number(/-(\d+)"/.exec(body)?.[1] ?? 1) * mib
  response.writeHead(200, { "content-type": "audio/pcm" })
  let sent = 0
  const sound = new Readable({
    read() {
      sent += piece.length
      this.push(sent > size ? null : piece)
    }
  })
  pipeline(sound, response, () => undefined)
}

const chat = (response: ServerResponse): void => {
  response.writeHead(200, { "content-type": "text/event-stream" })
  const chunk = { id: "c", object: "chat.completion.chunk", created: 1, model: "m" }
  const write = (choice: object): void => {
    response.write(`data: ${JSON.stringify({ ...chunk, choices: [{ index: 0, ...choice }] })}\n\n`)
  }
  const timer = setInterval(() => write({ delta: { content: "word " } }), 5)
  response.on("close", () => clearInterval(timer))
}

const read = async (request: IncomingMessage): Promise<string> => {
  const chunks: Array<Buffer> = []
  for await (const chunk of request) if (Buffer.isBuffer(chunk)) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}

const serve = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
  if (request.url?.endsWith("/audio/transcriptions") === true) {
    for await (const _ of request) { /* read as it comes */ }
    response.writeHead(200, { "content-type": "application/json" })
    response.end("{\"text\":\"Hello.\"}")
    return
  }
  const body = await read(request)
  if (request.url?.endsWith("/audio/speech") === true) speak(body, response)
  else if (request.url?.endsWith("/chat/completions") === true) chat(response)
  else response.writeHead(404).end()
}

const through = (target: string, request: IncomingMessage, response: ServerResponse): void => {
  const out = send(`${target}${request.url ?? ""}`, { method: request.method, headers: request.headers }, (answer) => {
    response.writeHead(answer.statusCode ?? 502, answer.headers)
    pipeline(answer, response, () => undefined)
  })
  pipeline(request, out, () => undefined)
}

const server = createServer((request, response) => {
  if (values.pipe !== undefined) through(values.pipe, request, response)
  else void serve(request, response)
})
server.listen(0, "127.0.0.1", () => {
  const address = server.address()
  process.stdout.write(`${JSON.stringify({ port: typeof address === "object" ? address?.port : 0 })}\n`)
})
