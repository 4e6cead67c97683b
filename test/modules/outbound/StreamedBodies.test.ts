/** Bodies that are never held: uploads sent as they are made, forms with files, binary answers read as they come. */
import { afterEach, assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, Effect, Exit, Fiber, Redacted, type Scope, Stream } from "effect"
import { createHash, randomBytes } from "node:crypto"
import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import * as OutboundUndici from "../../../src/modules/outbound/OutboundUndici.ts"
import { Breakers } from "../../../src/sdk/Breakers.ts"
import { Outbound, type StreamedBody, type Upstream, type UpstreamRequest } from "../../../src/sdk/Outbound.ts"
import { ProviderError } from "../../../src/sdk/Provider.ts"
import * as Multipart from "../../../src/wire/Multipart.ts"
import { closeAll, type Far, listen } from "../../fixtures/FarServer.ts"

afterEach(closeAll)

const serve = (handle: (request: IncomingMessage, response: ServerResponse) => void): Promise<Far> =>
  listen(createServer(handle))

/** Answers with what has come: size and digest of the body, and the headers. */
const digest = (request: IncomingMessage, response: ServerResponse): void => {
  const hash = createHash("sha256")
  let bytes = 0
  request.on("data", (chunk: Buffer) => {
    bytes += chunk.length
    hash.update(chunk)
  })
  request.on("end", () => response.end(JSON.stringify({ bytes, sha256: hash.digest("hex"), headers: request.headers })))
}

const withUpstream = <A, E>(
  far: Far,
  use: (upstream: Upstream) => Effect.Effect<A, E, Scope.Scope | Breakers>,
  keys: ReadonlyArray<string> = ["sk-1"]
): Promise<A> =>
  Effect.gen(function*() {
    const outbound = yield* Outbound
    return yield* use(
      yield* outbound.upstream({
        provider: "far",
        baseUrl: far.url,
        credential: { type: "bearer", secret: keys.map((key) => Redacted.make(key)) }
      })
    )
  }).pipe(Effect.scoped, Effect.provide(OutboundUndici.layer), Effect.runPromise)

const upload = (body: StreamedBody): UpstreamRequest => ({ method: "POST", path: "/upload", body })

const chunk = randomBytes(64 * 1024)

describe("a streamed body", () => {
  it("arrives whole and in order, in chunks or with its length", async () => {
    const far = await serve(digest)
    const all = randomBytes(3_000_001)
    const stream = Stream.fromIterable(
      Array.from({ length: 31 }, (_, index) => new Uint8Array(all.subarray(index * 100_000, (index + 1) * 100_000)))
    ).pipe(Stream.rechunk(1))
    for (const size of [undefined, all.length]) {
      const answer = await withUpstream(
        far,
        (upstream) => upstream.request(upload(size === undefined ? { stream } : { stream, bytes: size }))
      )
      const seen: unknown = JSON.parse(answer.body)
      assert.propertyVal(seen, "bytes", all.length)
      assert.propertyVal(seen, "sha256", createHash("sha256").update(all).digest("hex"))
      if (size === undefined) assert.nestedPropertyVal(seen, "headers.transfer-encoding", "chunked")
      else assert.nestedPropertyVal(seen, "headers.content-length", String(size))
    }
  })

  it("is pulled only as fast as the upstream takes it", async () => {
    const reading = Promise.withResolvers<IncomingMessage>()
    const far = await serve((request, response) => {
      if (request.url === "/upload") reading.resolve(request.pause())
      else request.resume()
      request.on("end", () => response.end("{}"))
    })
    let pulled = 0
    const total = 2000
    const stream = Stream.range(1, total).pipe(
      Stream.rechunk(1),
      Stream.map((index) => {
        pulled = index
        return chunk
      })
    )
    await withUpstream(far, (upstream) =>
      Effect.gen(function*() {
        const call = yield* Effect.forkScoped(upstream.request(upload({ stream })))
        const request = yield* Effect.promise(() => reading.promise)
        // Time enough for all of it, of which this machine's sockets hold less than a third.
        yield* Effect.repeat(upstream.request({ method: "POST", path: "/other", body: "{}" }), { times: 200 })
        assert.isBelow(pulled, total / 3)
        request.resume()
        yield* Fiber.join(call)
        assert.strictEqual(pulled, total)
      }))
  })

  it("that fails fails the request with its error, cuts the connection and leaves the breaker alone", async () => {
    const far = await serve((request) => request.resume())
    const broken = new ProviderError({
      provider: "far",
      kind: "transient",
      code: "ECONNRESET",
      message: "the source broke"
    })
    await withUpstream(far, (upstream) =>
      Effect.gen(function*() {
        const stream = Stream.concat(Stream.make(chunk), Stream.fail(broken))
        for (let i = 0; i < 20; i++) {
          const error = yield* Effect.flip(upstream.request(upload({ stream })))
          assert.strictEqual(error.message, "the source broke")
          const streamed = yield* Effect.flip(Effect.scoped(upstream.stream(upload({ stream }))))
          assert.strictEqual(streamed.message, "the source broke")
        }
        const states = yield* (yield* Breakers).states
        assert.deepEqual(states.filter(({ state }) => state !== "closed"), [])
        yield* Effect.promise(() => far.open(0))
      }))
  })

  it("of another size than it says fails the request and leaves the breaker alone", async () => {
    const far = await serve((request) => request.resume())
    await withUpstream(far, (upstream) =>
      Effect.gen(function*() {
        for (let i = 0; i < 20; i++) {
          for (const bytes of [chunk.length - 1, chunk.length + 1]) {
            const exit = yield* Effect.exit(upstream.request(upload({ stream: Stream.make(chunk), bytes })))
            assert.isTrue(Exit.isFailure(exit))
          }
        }
        const states = yield* (yield* Breakers).states
        assert.deepEqual(states.filter(({ state }) => state !== "closed"), [])
      }))
  })

  it("that stalls is interrupted with its request, and its socket closed, within 100 ms", async () => {
    const far = await serve((request) => request.resume())
    await withUpstream(far, (upstream) =>
      Effect.gen(function*() {
        for (const call of [upstream.request, (request: UpstreamRequest) => Effect.scoped(upstream.stream(request))]) {
          const stalled = yield* Deferred.make<void>()
          let released = false
          const stream = Stream.concat(
            Stream.make(chunk),
            Stream.fromEffect(Effect.andThen(Deferred.succeed(stalled, undefined), Effect.never))
          ).pipe(Stream.ensuring(Effect.sync(() => {
            released = true
          })))
          const fiber = yield* Effect.forkScoped(call(upload({ stream })))
          yield* Deferred.await(stalled)
          yield* Effect.promise(() => far.open(1))
          const before = yield* Clock.currentTimeMillis
          yield* Fiber.interrupt(fiber)
          yield* Effect.promise(() => far.open(0))
          assert.isBelow((yield* Clock.currentTimeMillis) - before, 100)
          assert.isTrue(released)
        }
      }))
  })

  it("does not keep an answer waiting that comes before its end", async () => {
    const far = await serve((_request, response) => {
      response.writeHead(413, { connection: "close" })
      response.end("too much")
    })
    await withUpstream(far, (upstream) =>
      Effect.gen(function*() {
        let released = false
        const stream = Stream.concat(Stream.make(chunk), Stream.never).pipe(Stream.ensuring(Effect.sync(() => {
          released = true
        })))
        const answer = yield* upstream.request(upload({ stream }))
        assert.strictEqual(answer.status, 413)
        assert.strictEqual(answer.body, "too much")
        yield* Effect.promise(() => far.open(0))
        assert.isTrue(released)
      }))
  })

  it("is run anew for the next key, unless it can be run once only", async () => {
    const far = await serve((request, response) => {
      if (request.headers.authorization === "Bearer good") return digest(request, response)
      request.resume()
      request.on("end", () => {
        response.statusCode = 401
        response.end("{}")
      })
    })
    let runs = 0
    const stream = Stream.suspend(() => {
      runs++
      return Stream.make(chunk)
    })
    for (const once of [false, true]) {
      runs = 0
      await withUpstream(far, (upstream) =>
        Effect.gen(function*() {
          const first = yield* upstream.request(upload({ stream, once }))
          assert.strictEqual(first.status, once ? 401 : 200)
          assert.strictEqual(runs, once ? 1 : 2)
          // The refused key is known by now.
          assert.strictEqual((yield* upstream.request(upload({ stream, once }))).status, 200)
          assert.strictEqual(runs, once ? 2 : 3)
        }), ["bad", "good"])
    }
  })
})

describe("a form", () => {
  it("carries fields and files, whatever they are called", async () => {
    const forms = Promise.withResolvers<FormData>()
    const far = await serve((request, response) => {
      const parts: Array<Buffer> = []
      request.on("data", (part: Buffer) => parts.push(part))
      request.on("end", () => {
        const headers = { "content-type": request.headers["content-type"] ?? "" }
        forms.resolve(new Response(Buffer.concat(parts), { headers }).formData())
        response.end(JSON.stringify({ length: request.headers["content-length"], bytes: Buffer.concat(parts).length }))
      })
    })
    const form = Multipart.encode([
      { name: "model", value: "whisper-1" },
      {
        name: "file",
        filename: "a\"; name=\"model\"\r\nx-evil: 1.wav",
        contentType: "audio/wav\r\nx-evil: 1",
        content: Stream.make(new Uint8Array(chunk)),
        bytes: chunk.length
      },
      { name: "prompt", value: "Grüße\r\n--gateway-" }
    ])
    const answer = await withUpstream(
      far,
      (upstream) => upstream.request({ ...upload(form.body), headers: { "content-type": form.contentType } })
    )
    const seen: unknown = JSON.parse(answer.body)
    assert.propertyVal(seen, "length", String(form.body.bytes))
    assert.propertyVal(seen, "bytes", form.body.bytes)
    const fields = await forms.promise
    assert.strictEqual(fields.get("model"), "whisper-1")
    assert.strictEqual(fields.get("prompt"), "Grüße\r\n--gateway-")
    const file = fields.get("file")
    if (!(file instanceof File)) throw new Error("no file came")
    assert.deepEqual(Buffer.from(await file.arrayBuffer()), chunk)
    assert.deepEqual([...fields.keys()], ["model", "file", "prompt"])
  })
})

describe("a binary answer", () => {
  it("comes as the bytes that were sent, and only as fast as they are read", async () => {
    const total = 2000
    let written = 0
    const far = await serve((request, response) => {
      request.resume()
      if (request.url === "/other") {
        response.end("{}")
        return
      }
      const write = (): void => {
        while (written < total) {
          written++
          if (!response.write(chunk)) {
            response.once("drain", write)
            return
          }
        }
        response.end()
      }
      write()
    })
    await withUpstream(far, (upstream) =>
      Effect.scoped(Effect.gen(function*() {
        const answer = yield* upstream.stream({ method: "GET", path: "/speech" })
        yield* Effect.repeat(upstream.request({ method: "POST", path: "/other", body: "{}" }), { times: 200 })
        assert.isBelow(written, total / 3)
        const hash = createHash("sha256")
        yield* Stream.runForEach(answer.body, (bytes) => Effect.sync(() => hash.update(bytes)))
        const expected = createHash("sha256")
        for (let i = 0; i < total; i++) expected.update(chunk)
        assert.strictEqual(hash.digest("hex"), expected.digest("hex"))
      })))
  })
})
