/** The door out, against servers that refuse, break off, lie about lengths or speak no HTTP at all. */
import { afterEach, assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Redacted, type Scope, Stream } from "effect"
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from "node:http"
import { createServer, type Socket } from "node:net"
import * as OutboundUndici from "../../../src/modules/outbound/OutboundUndici.ts"
import { Outbound, type Upstream, type UpstreamOptions, type UpstreamRequest } from "../../../src/sdk/Outbound.ts"
import type { ProviderError } from "../../../src/sdk/Provider.ts"
import { closeAll, type Far, listen, running } from "../../fixtures/FarServer.ts"

const secret = "sk-very-secret"

afterEach(closeAll)

const overHttp = (handle: (request: IncomingMessage, response: ServerResponse) => void): Promise<Far> =>
  listen(createHttpServer((request, response) => {
    request.resume()
    request.on("end", () => handle(request, response))
  }))

/** A server that answers the first bytes of a connection with these. */
const overTcp = (answer: (socket: Socket) => void): Promise<Far> =>
  listen(createServer((socket) => socket.once("data", () => answer(socket))))

const call: UpstreamRequest = {
  method: "POST",
  path: "/chat",
  body: "{}",
  headers: { "content-type": "application/json" }
}

const withUpstream = <A, E>(
  baseUrl: string,
  use: (upstream: Upstream) => Effect.Effect<A, E, Scope.Scope>,
  options: Partial<UpstreamOptions> = {}
): Promise<A> =>
  Effect.gen(function*() {
    const outbound = yield* Outbound
    const upstream = yield* outbound.upstream({
      provider: "far",
      baseUrl,
      credential: { type: "bearer", secret: Redacted.make(secret) },
      ...options
    })
    return yield* use(upstream)
  }).pipe(Effect.scoped, Effect.provide(OutboundUndici.layer), Effect.runPromise)

const readAll = (upstream: Upstream, request: UpstreamRequest) =>
  Effect.scoped(Effect.flatMap(upstream.stream(request), ({ body }) => Stream.runDrain(body)))

/** Both ways of asking fail alike. */
const fails = async (
  baseUrl: string,
  check: (error: ProviderError) => void,
  request: UpstreamRequest = call
): Promise<void> => {
  await withUpstream(baseUrl, (upstream) =>
    Effect.gen(function*() {
      for (const operation of [Effect.asVoid(upstream.request(request)), readAll(upstream, request)]) {
        const error = yield* Effect.flip(operation)
        assert.strictEqual(error.provider, "far")
        assert.notInclude(JSON.stringify(error), secret)
        assert.notInclude(error.message, "127.0.0.1")
        check(error)
      }
    }))
}

describe("connections that fail", () => {
  it("a refused one is transient", async () => {
    const far = await overHttp(() => {})
    const { port } = far
    for (const { server } of running) await new Promise((resolve) => server.close(resolve))
    await fails(`http://127.0.0.1:${port}`, (error) => {
      assert.strictEqual(error.kind, "transient")
      assert.strictEqual(error.code, "ECONNREFUSED")
      assert.include(error.message, "cannot reach")
    })
    running.clear()
  })

  it("a reset one is transient", async () => {
    const far = await overTcp((socket) => socket.resetAndDestroy())
    await fails(far.url, (error) => {
      assert.strictEqual(error.kind, "transient")
      assert.include(error.message, "broke")
    })
  })

  it("one that closes without an answer is transient", async () => {
    const far = await overTcp((socket) => socket.end())
    await fails(far.url, (error) => assert.strictEqual(error.kind, "transient"))
  })

  it("TLS to a server without it fails as unreachable", async () => {
    const far = await overHttp((_, response) => response.end("{}"))
    await fails(far.url.replace("http:", "https:"), (error) => {
      assert.strictEqual(error.kind, "transient")
      assert.include(error.message, "cannot reach")
    })
  })

  it("a name that is none is transient", async () => {
    await fails("http://no-such-host.invalid", (error) => {
      assert.strictEqual(error.kind, "transient")
      assert.notInclude(error.message, "no-such-host")
    })
  })

  it("one that does not open in time names the connect timer", async () => {
    // It takes the connection and never begins TLS, so for the client the connection never stands.
    const far = await listen(createServer(() => {}))
    await fails(far.url.replace("http:", "https:"), (error) => {
      assert.strictEqual(error.kind, "transient")
      assert.deepStrictEqual(error.timeout, { phase: "connect", limitMs: 60 })
      assert.include(error.message, "60 ms")
    }, { ...call, connectTimeout: 60 })
  })

  it("a slow answer on an open connection is not the connect timer's business", async () => {
    const far = await overHttp((_, response) => void setTimeout(() => response.end("{}"), 150))
    const answer = await withUpstream(far.url, (upstream) => upstream.request({ ...call, connectTimeout: 60 }))
    assert.strictEqual(answer.body, "{}")
  })
})

describe("answers that are broken", () => {
  it("no HTTP is a broken protocol", async () => {
    const far = await overTcp((socket) => socket.end("220 mail.example ESMTP\r\n\r\n"))
    await fails(far.url, (error) => {
      assert.strictEqual(error.kind, "protocol")
      assert.include(error.message, "not valid HTTP")
    })
  })

  it("headers without end are bounded", async () => {
    const far = await overTcp((socket) =>
      socket.write(`HTTP/1.1 200 OK\r\n${`x-filler: ${"x".repeat(1000)}\r\n`.repeat(200)}`)
    )
    await fails(far.url, (error) => assert.strictEqual(error.code, "UND_ERR_HEADERS_OVERFLOW"))
  })

  it("a body shorter than its content-length is no answer", async () => {
    const far = await overTcp((socket) => socket.end("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"cut\":"))
    await fails(far.url, (error) => assert.include(["transient", "protocol"], error.kind))
  })

  it("a chunked body that is cut is no answer", async () => {
    const far = await overTcp((socket) =>
      socket.end("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
    )
    await fails(far.url, (error) => assert.include(["transient", "protocol"], error.kind))
  })

  it("bad chunk sizes are a broken protocol", async () => {
    const far = await overTcp((socket) =>
      socket.end("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n")
    )
    await fails(far.url, (error) => assert.strictEqual(error.kind, "protocol"))
  })

  it("what came before the break is still given, and then the failure", async () => {
    const far = await overTcp((socket) => {
      socket.write(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        () => socket.resetAndDestroy()
      )
    })
    const seen: Array<string> = []
    const exit = await withUpstream(
      far.url,
      (upstream) =>
        Effect.exit(
          Effect.flatMap(upstream.stream(call), ({ body }) =>
            Stream.runForEach(body, (bytes) =>
              Effect.sync(() => seen.push(new TextDecoder().decode(bytes)))))
        )
    )
    assert.isTrue(Exit.isFailure(exit))
    assert.strictEqual(seen.join(""), "hello")
  })

  it("an interim answer is passed over", async () => {
    const far = await overTcp((socket) =>
      socket.end("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    )
    const answer = await withUpstream(far.url, (upstream) => upstream.request(call))
    assert.deepStrictEqual({ status: answer.status, body: answer.body }, { status: 200, body: "{}" })
  })

  it("a body larger than what may be held is refused, and its connection closed", async () => {
    const far = await overHttp((_, response) => {
      response.on("error", () => {})
      for (let i = 0; i < 100; i++) response.write("x".repeat(10_000))
    })
    await withUpstream(far.url, (upstream) =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(upstream.request({ ...call, maxBytes: 50_000 }))
        assert.strictEqual(error.kind, "protocol")
        assert.include(error.message, "50000 bytes")
        yield* Effect.promise(() => far.open(0))
        const size = yield* Effect.scoped(Effect.gen(function*() {
          const answer = yield* upstream.stream(call)
          return yield* Stream.runFold(Stream.take(answer.body, 3), () => 0, (sum, bytes) => sum + bytes.length)
        }))
        assert.isAbove(size, 0)
        yield* Effect.promise(() => far.open(0))
      }))
  })

  it("UTF-8 that is cut anywhere is put together again", async () => {
    const text = "grüße, 世界 🌍"
    const far = await overHttp((_, response) => {
      const bytes = Buffer.from(text)
      let at = 0
      const next = () => {
        if (at === bytes.length) response.end()
        else response.write(bytes.subarray(at, ++at), () => setImmediate(next))
      }
      next()
    })
    const answer = await withUpstream(far.url, (upstream) => upstream.request(call))
    assert.strictEqual(answer.body, text)
  })
})

describe("requests", () => {
  it("go to the path below the base URL, with its headers over those of the upstream", async () => {
    const far = await overHttp((request, response) =>
      response.end(JSON.stringify({ url: request.url, method: request.method, headers: request.headers }))
    )
    const answer = await withUpstream(
      `${far.url}/some/prefix/`,
      (upstream) => upstream.request({ ...call, path: "/chat?a=1", headers: { "x-b": "request" } }),
      { headers: { "x-a": "upstream", "x-b": "upstream" } }
    )
    const seen: unknown = JSON.parse(answer.body)
    assert.nestedPropertyVal(seen, "url", "/some/prefix/chat?a=1")
    assert.nestedPropertyVal(seen, "headers.x-a", "upstream")
    assert.nestedPropertyVal(seen, "headers.x-b", "request")
  })

  for (
    const credential of [
      { type: "bearer", secret: Redacted.make(secret) },
      { type: "header", name: "x-api-key", secret: Redacted.make(secret) }
    ] as const
  ) {
    it(`no other header takes the credential's place (${credential.type})`, async () => {
      const far = await overHttp((request, response) => response.end(JSON.stringify(request.headersDistinct)))
      const own = credential.type === "bearer" ? "authorization" : credential.name
      const shown = credential.type === "bearer" ? `Bearer ${secret}` : secret
      for (const name of [own, own.toUpperCase(), own.replace(/^./, (first) => first.toUpperCase())]) {
        const answer = await withUpstream(
          far.url,
          (upstream) => upstream.request({ ...call, headers: { [name]: "forged-by-request" } }),
          { credential, headers: { [name]: "forged-by-options" } }
        )
        const seen: unknown = JSON.parse(answer.body)
        assert.deepNestedPropertyVal(seen, own, [shown], name)
        assert.notInclude(answer.body, "forged")
      }
    })
  }
})

describe("connections", () => {
  // A request that is sent in the very moment in which an answer ends takes a second connection.
  it("are used again after a whole answer", async () => {
    const far = await overHttp((_, response) => response.end("{}"))
    await withUpstream(far.url, (upstream) => Effect.repeat(upstream.request(call), { times: 9 }))
    assert.isAtMost(far.accepted(), 2)
  })

  it("are used again after a stream that was told to be complete before its body ended", async () => {
    const far = await overHttp((_, response) => {
      response.write("data: [DONE]\n\n")
      response.on("close", () => ended.resolve())
      setTimeout(() => response.end(), 20)
    })
    const ended = Promise.withResolvers<void>()
    await withUpstream(far.url, (upstream) =>
      Effect.gen(function*() {
        yield* Effect.scoped(Effect.gen(function*() {
          const answer = yield* upstream.stream(call)
          yield* Stream.runDrain(Stream.take(answer.body, 1))
          answer.complete()
        }))
        assert.strictEqual(far.sockets.size, 1)
        yield* Effect.promise(() => ended.promise)
        yield* Effect.repeat(readAll(upstream, call), { times: 8 })
        assert.isAtMost(far.accepted(), 2)
      }))
  })

  it("are cut where a complete stream's body does not end", async () => {
    const far = await overHttp((_, response) => void response.write("data: [DONE]\n\n"))
    await withUpstream(far.url, (upstream) =>
      Effect.gen(function*() {
        yield* Effect.scoped(Effect.gen(function*() {
          const answer = yield* upstream.stream(call)
          yield* Stream.runDrain(Stream.take(answer.body, 1))
          answer.complete()
        }))
        assert.strictEqual(far.sockets.size, 1)
        yield* Effect.promise(() => far.open(0))
      }))
  })

  it("are cut where a stream is left early", async () => {
    const far = await overHttp((_, response) => void response.write("data: 1\n\n"))
    await withUpstream(far.url, (upstream) =>
      Effect.gen(function*() {
        yield* Effect.scoped(Effect.flatMap(upstream.stream(call), ({ body }) => Stream.runDrain(Stream.take(body, 1))))
        yield* Effect.promise(() => far.open(0))
      }))
  })

  it("are all closed with the upstream's scope, busy or idle", async () => {
    const far = await overHttp((request, response) => {
      if (request.url === "/chat") response.end("{}")
    })
    await withUpstream(far.url, (upstream) =>
      Effect.gen(function*() {
        yield* Effect.forkScoped(upstream.request({ ...call, path: "/hang" }))
        yield* upstream.request(call)
        yield* Effect.promise(() => far.open(2))
      }))
    await far.open(0)
  })

  it("an error body is read as far as it is wanted, and the connection is used again", async () => {
    const far = await overHttp((_, response) => {
      response.statusCode = 400
      response.end("x".repeat(100_000))
    })
    await withUpstream(far.url, (upstream) =>
      Effect.gen(function*() {
        for (let i = 0; i < 9; i++) {
          const text = yield* Effect.scoped(Effect.flatMap(upstream.stream(call), (answer) => answer.text(1000)))
          assert.strictEqual(text, "x".repeat(1000))
        }
        assert.isAtMost(far.accepted(), 2)
      }))
  })
})
