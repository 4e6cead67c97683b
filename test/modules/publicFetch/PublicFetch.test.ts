/** What may be asked for somebody else, and what becomes of servers that mean no good. */
import { afterEach, assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Stream } from "effect"
import { createServer, type RequestListener } from "node:http"
import { createServer as createTcpServer } from "node:net"
import { brotliCompressSync, deflateSync, gzipSync } from "node:zlib"
import * as PublicFetchUndici from "../../../src/modules/publicFetch/PublicFetchUndici.ts"
import { type FetchError, type FetchRequest, PublicFetch } from "../../../src/sdk/PublicFetch.ts"
import { closeAll, type Far, listen } from "../../fixtures/FarServer.ts"

afterEach(closeAll)

const run = <A, E>(
  use: Effect.Effect<A, E, PublicFetch>,
  options: PublicFetchUndici.Options = {}
): Effect.Effect<A, E> => Effect.provide(use, PublicFetchUndici.layer(options))

const read = (request: FetchRequest) =>
  Effect.scoped(Effect.gen(function*() {
    const { request: send } = yield* PublicFetch
    const { body, headers, status } = yield* send(request)
    const bytes = yield* Stream.runFold(body, () => 0, (count, chunk) => count + chunk.length)
    return { status, headers, bytes }
  }))

const failureOf = <A>(effect: Effect.Effect<A, FetchError>): Effect.Effect<string> =>
  Effect.match(effect, { onFailure: ({ failure }) => failure, onSuccess: () => "none" })

// ---------------------------------------------------------------------------------------------------------------------
// Addresses
// ---------------------------------------------------------------------------------------------------------------------

/** Hosts that lead inside, or to nobody, in the spellings that readers of URLs take. */
const inside = [
  // The address of clouds' metadata.
  "169.254.169.254",
  "169.254.169.254.",
  "2852039166",
  "0xA9FEA9FE",
  "0xa9.0xfe.0xa9.0xfe",
  "0251.0376.0251.0376",
  "169.254.43518",
  "169.16689662",
  "%31%36%39.254.169.254",
  "１６９.２５４.１６９.２５４",
  "169。254。169。254",
  "[::ffff:169.254.169.254]",
  "[::ffff:a9fe:a9fe]",
  "[0:0:0:0:0:ffff:a9fe:a9fe]",
  "[::169.254.169.254]",
  "[64:ff9b::169.254.169.254]",
  "[64:ff9b::a9fe:a9fe]",
  "[64:ff9b:1::a9fe:a9fe]",
  "[2002:a9fe:a9fe::]",
  "[2001:0:a9fe:a9fe::]",
  "[fd00:ec2::254]",
  // This machine.
  "127.0.0.1",
  "127.1",
  "127.255.255.254",
  "2130706433",
  "0x7f000001",
  "0x7f.1",
  "017700000001",
  "0",
  "0.0.0.0",
  "0.1.2.3",
  "[::]",
  "[::1]",
  "[0000:0000:0000:0000:0000:0000:0000:0001]",
  "[::ffff:127.0.0.1]",
  "[::ffff:0:127.0.0.1]",
  "[64:ff9b::7f00:1]",
  // Networks inside.
  "10.0.0.1",
  "10.255.255.255",
  "172.16.0.1",
  "172.31.255.255",
  "192.168.0.1",
  "100.64.0.1",
  "100.127.255.255",
  "169.254.0.1",
  "[fe80::1]",
  "[fe80::a00:27ff:fe4e:66a1]",
  "[fc00::1]",
  "[fd12:3456:789a::1]",
  "[fec0::1]",
  "[::ffff:10.0.0.1]",
  "[2002:0a00:0001::1]",
  // Nobody in particular.
  "192.0.0.8",
  "192.0.0.170",
  "192.0.2.1",
  "192.88.99.1",
  "198.18.0.1",
  "198.51.100.1",
  "203.0.113.1",
  "224.0.0.1",
  "239.255.255.250",
  "240.0.0.1",
  "255.255.255.255",
  "[2001:db8::1]",
  "[2001:10::1]",
  "[3fff::1]",
  "[100::1]",
  "[ff02::1]",
  "[5f00::1]"
]

const outside = [
  "93.184.215.14",
  "8.8.8.8",
  "1.1.1.1",
  "100.63.255.255",
  "100.128.0.1",
  "172.15.255.255",
  "172.32.0.1",
  "192.0.1.1",
  "198.17.255.255",
  "198.20.0.1",
  "223.255.255.255",
  "[2606:4700:4700::1111]",
  "[2a00:1450:4001:82a::200e]",
  "example.org",
  "xn--nxasmq6b.example"
]

const check = (url: string) => Effect.flatMap(PublicFetch, (fetching) => fetching.check(url))

describe("an address", () => {
  it.effect.each(inside)("inside is not asked: %s", (host) =>
    Effect.gen(function*() {
      for (const scheme of ["https", "http"]) {
        assert.strictEqual(yield* failureOf(run(check(`${scheme}://${host}/latest/meta-data/`))), "not_allowed")
      }
      assert.strictEqual(yield* failureOf(run(read({ url: `https://${host}:8443/` }))), "not_allowed")
    }))

  it.effect.each(outside)("outside may be: %s", (host) => run(check(`https://${host}/picture.png`)))

  it.effect.each<readonly [url: string, wanted: string]>([
    ["http://example.org/", "not_allowed"],
    ["ftp://example.org/", "not_allowed"],
    ["file:///etc/passwd", "not_allowed"],
    ["gopher://example.org/", "not_allowed"],
    ["data:text/plain,x", "not_allowed"],
    ["https://user:password@example.org/", "invalid_url"],
    ["https://127.0.0.1@example.org/", "invalid_url"],
    ["https://", "invalid_url"],
    ["https://[::1", "invalid_url"],
    ["https://exa mple.org/", "invalid_url"],
    ["example.org", "invalid_url"],
    ["", "invalid_url"],
    [`https://example.org/${"a".repeat(9_000)}`, "invalid_url"]
  ])(
    "%s: %s",
    ([url, wanted]) => Effect.map(failureOf(run(check(url))), (failure) => assert.strictEqual(failure, wanted))
  )

  it.live.each<ReadonlyArray<string>>([
    ["127.0.0.1"],
    ["169.254.169.254"],
    ["10.0.0.1", "192.168.0.1"],
    ["::1"],
    ["::ffff:127.0.0.1"],
    ["64:ff9b::7f00:1"],
    ["fe80::1%lo"],
    ["not an address"]
  ])("that a name leads to is checked, too: %s", (addresses) =>
    Effect.gen(function*() {
      const failure = failureOf(run(read({ url: "https://rebound.example/" }), {
        lookup: () => Promise.resolve(addresses)
      }))
      assert.strictEqual(yield* failure, "not_allowed")
    }))

  it.live("is looked up once for a connection, which goes where it was checked", () =>
    Effect.gen(function*() {
      const far = yield* serving((_, response) => response.end("here"))
      const asked: Array<string> = []
      const answer = yield* run(read({ url: `http://good.example:${far.port}/` }), {
        allow: ["good.example"],
        // Whoever asked twice would get another answer.
        lookup: (name) => {
          asked.push(name)
          return Promise.resolve([asked.length === 1 ? "127.0.0.1" : "127.0.0.2"])
        }
      })
      assert.strictEqual(answer.bytes, 4)
      assert.deepStrictEqual(asked, ["good.example"])
    }))

  it.live("that nobody knows is unreachable", () =>
    Effect.gen(function*() {
      for (
        const lookup of [
          () => Promise.resolve([]),
          () => Promise.reject(new Error("ENOTFOUND of 10.0.0.7"))
        ]
      ) {
        const error = yield* Effect.flip(run(read({ url: "https://nobody.example/" }), { lookup }))
        assert.strictEqual(error.failure, "unreachable")
        assert.notInclude(error.message, "10.0.0.7")
      }
    }))
})

// ---------------------------------------------------------------------------------------------------------------------
// Servers
// ---------------------------------------------------------------------------------------------------------------------

const serving = (listener: RequestListener): Effect.Effect<Far> => Effect.promise(() => listen(createServer(listener)))

const loopback: PublicFetchUndici.Options = { allow: ["127.0.0.0/8"], maxBytes: 100_000 }

describe("a server", () => {
  it.live("that the operator allows is asked, with what it is told", () =>
    Effect.gen(function*() {
      const far = yield* serving((request, response) => {
        let body = ""
        request.on("data", (chunk: Buffer) => {
          body += chunk.toString()
        })
        request.on("end", () =>
          response.end(`${request.method} ${request.url} ${String(request.headers["x-a"])} ${body}`))
      })
      const text = yield* run(
        Effect.scoped(Effect.gen(function*() {
          const { request } = yield* PublicFetch
          const { body } = yield* request({
            url: `${far.url}/hook?a=b`,
            method: "POST",
            headers: { "x-a": "1" },
            body: "hello"
          })
          return yield* Stream.mkString(Stream.decodeText(body))
        })),
        loopback
      )
      assert.strictEqual(text, "POST /hook?a=b 1 hello")
      yield* Effect.promise(() =>
        far.open(0)
      )
    }))

  it.live("may redirect, and each address is checked anew", () =>
    Effect.gen(function*() {
      const far = yield* serving((request, response) => {
        const to = new URL(request.url ?? "", "http://x").searchParams.get("to")
        if (to === null) response.end("there")
        else response.writeHead(302, { location: to }).end()
      })
      const to = (...urls: ReadonlyArray<string>): string =>
        urls.toReversed().reduce((target, url) => `${url}?to=${encodeURIComponent(target)}`)
      assert.strictEqual(
        (yield* run(read({ url: to("/", `${far.url}/a`, far.url).replace(/^\//, `${far.url}/`) }), loopback)).status,
        200
      )
      for (
        const target of [
          "http://10.0.0.1/",
          "http://169.254.169.254/latest/",
          "https://[::1]/",
          "file:///etc/passwd",
          "http://localhost.example/"
        ]
      ) {
        const failure = failureOf(run(read({ url: `${far.url}/?to=${encodeURIComponent(target)}` }), {
          ...loopback,
          lookup: () => Promise.resolve(["10.0.0.1"])
        }))
        assert.strictEqual(yield* failure, "not_allowed", target)
      }
      const round = yield* serving((_, response) => response.writeHead(301, { location: "/" }).end())
      assert.strictEqual(yield* failureOf(run(read({ url: round.url }), loopback)), "too_many_redirects")
      const as302 = yield* run(read({ url: round.url, maxRedirects: 0 }), loopback)
      assert.deepStrictEqual([as302.status, as302.headers["location"]], [301, "/"])
    }))

  it.live("does not get another one's credentials", () =>
    Effect.gen(function*() {
      const seen: Array<string | undefined> = []
      const second = yield* serving((request, response) => {
        seen.push(request.headers.authorization)
        response.end()
      })
      const first = yield* serving((_, response) => response.writeHead(307, { location: second.url }).end())
      yield* run(read({ url: first.url, headers: { authorization: "Bearer secret" } }), loopback)
      assert.deepStrictEqual(seen, [undefined])
    }))

  it.live.each(
    [
      ["says so", { "content-length": "10000000000" }],
      ["does not say so", {}]
    ] as const
  )("that sends too much is cut off, where it %s", ([, headers]) =>
    Effect.gen(function*() {
      const far = yield* serving((_, response) => {
        response.writeHead(200, headers)
        const more = () => {
          while (!response.destroyed && response.write(Buffer.alloc(64 * 1024))) { /* as fast as it is read */ }
        }
        response.on("drain", more)
        more()
      })
      assert.strictEqual(yield* failureOf(run(read({ url: far.url }), loopback)), "too_large")
      yield* Effect.promise(() => far.open(0))
    }))

  const zeros = Buffer.alloc(50_000_000)
  it.live.each(
    [
      ["gzip", gzipSync(zeros)],
      ["deflate", deflateSync(zeros)],
      ["br", brotliCompressSync(zeros)]
    ] as const
  )("that sends a bomb of %s is cut off", ([encoding, packed]) =>
    Effect.gen(function*() {
      assert.isBelow(packed.length, 100_000)
      const far = yield* serving((_, response) => response.writeHead(200, { "content-encoding": encoding }).end(packed))
      assert.strictEqual(yield* failureOf(run(read({ url: far.url }), loopback)), "too_large")
    }))

  it.live("may pack its answer", () =>
    Effect.gen(function*() {
      const text = Buffer.from("hello ".repeat(1000))
      const far = yield* serving((_, response) =>
        response.writeHead(200, { "content-encoding": "gzip" }).end(gzipSync(text))
      )
      assert.strictEqual((yield* run(read({ url: far.url }), loopback)).bytes, text.length)
      const broken = yield* serving((_, response) =>
        response.writeHead(200, { "content-encoding": "gzip" }).end("not packed")
      )
      assert.strictEqual(yield* failureOf(run(read({ url: broken.url }), loopback)), "bad_answer")
      const unknown = yield* serving((_, response) => response.writeHead(200, { "content-encoding": "zip" }).end("x"))
      assert.strictEqual(yield* failureOf(run(read({ url: unknown.url }), loopback)), "bad_answer")
    }))

  it.live.each(["headers", "body"])("that only drips its %s is left", (part) =>
    Effect.gen(function*() {
      const far = yield* Effect.promise(() =>
        listen(createTcpServer((socket) => {
          socket.write(
            part === "headers" ? "HTTP/1.1 200 OK\r\nx-a: " : "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"
          )
          const timer = setInterval(() => socket.write("a"), 20)
          socket.on("close", () => clearInterval(timer))
        }))
      )
      assert.strictEqual(yield* failureOf(run(read({ url: far.url, timeoutMs: 200 }), loopback)), "too_slow")
      yield* Effect.promise(() => far.open(0))
    }))

  it.live.each(
    [
      ["no HTTP", "SSH-2.0-OpenSSH\r\n\r\n", "bad_answer"],
      ["nothing", "", "unreachable"],
      ["half an answer", "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nabc", "unreachable"]
    ] as const
  )("that speaks %s", ([, words, wanted]) =>
    Effect.gen(function*() {
      const far = yield* Effect.promise(() => listen(createTcpServer((socket) => socket.end(words))))
      assert.strictEqual(yield* failureOf(run(read({ url: far.url }), loopback)), wanted)
    }))

  it.live("is left at once by who does not want its answer any more", () =>
    Effect.gen(function*() {
      const far = yield* serving((_, response) => {
        response.writeHead(200)
        response.write("a")
      })
      const fiber = yield* Effect.forkChild(Effect.exit(run(read({ url: far.url }), loopback)))
      yield* Effect.promise(() => far.open(1))
      yield* Fiber.interrupt(fiber)
      yield* Effect.promise(() => far.open(0))
      assert.isTrue(Exit.hasInterrupts(yield* Effect.exit(Fiber.join(fiber))))
    }))
})
