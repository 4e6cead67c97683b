/** A service that interceptors ask: a real HTTP server on 127.0.0.1 that remembers what it was asked. */
import { Effect, type Scope } from "effect"
import * as Http from "node:http"

/** One question. */
export interface Asked {
  readonly method: string
  readonly path: string
  readonly headers: Http.IncomingHttpHeaders
  readonly body: string
}

/** A service that runs. */
export interface Service {
  readonly url: string
  readonly asked: ReadonlyArray<Asked>
  /** Connections accepted so far. */
  readonly connections: () => number
}

/** What it answers: a body as JSON, or a status with headers and a text. */
export type Reply = { readonly json: unknown } | {
  readonly status: number
  readonly headers?: Record<string, string>
  readonly body: string
} | "silence"

/** Starts a service for as long as the scope lives; `answer` gets each question and its place, from 0. */
export const service = (
  answer: (asked: Asked, index: number) => Reply
): Effect.Effect<Service, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<Service & { readonly close: () => void }>((resume) => {
      const asked: Array<Asked> = []
      let connections = 0
      const server = Http.createServer((request, response) => {
        let body = ""
        request.setEncoding("utf8").on("data", (piece: string) => body += piece).on("end", () => {
          const question = { method: request.method ?? "", path: request.url ?? "", headers: request.headers, body }
          asked.push(question)
          const reply = answer(question, asked.length - 1)
          if (reply === "silence") return
          if ("json" in reply) {
            response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(reply.json))
          } else response.writeHead(reply.status, reply.headers).end(reply.body)
        })
      })
      server.on("connection", () => connections++)
      server.listen(0, "127.0.0.1", () => {
        const address = server.address()
        const port = typeof address === "object" && address !== null ? address.port : 0
        resume(Effect.succeed({
          url: `http://127.0.0.1:${port}/hook`,
          asked,
          connections: () => connections,
          close: () => {
            server.closeAllConnections()
            server.close()
          }
        }))
      })
    }),
    (running) => Effect.sync(running.close)
  )
