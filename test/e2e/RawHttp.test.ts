/**
 * HTTP as strangers write it, byte by byte on a socket: what is no HTTP gets an error with a body, what is allowed but rare
 * (`expect`, offers to upgrade, HEAD, absolute addresses, trailers) is served, and the connection is closed exactly when
 * the answer says so.
 */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { connect } from "node:net"
import { gzipSync } from "node:zlib"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, parsed } from "../fixtures/Script.ts"

const maxBody = 300_000
let gateway: RunningGateway

beforeAll(async () => {
  gateway = await startGateway(`server: { max_body: ${maxBody}B }\nproviders:\n  sandbox: { type: sandbox }\n`)
})
afterAll(() => gateway.close())

interface Talk {
  readonly write: (bytes: string) => void
  /** Resolves with all that has come as soon as it matches. */
  readonly until: (pattern: RegExp) => Promise<string>
  /** Resolves with all that has come when the server has closed the connection. */
  readonly closed: Promise<string>
  readonly leave: () => void
}

const talk = (): Talk => {
  const socket = connect(Number(new URL(gateway.url).port), "127.0.0.1")
  let text = ""
  let over = false
  const changed = new Set<() => void>()
  const tell = () => {
    for (const look of changed) look()
  }
  socket.on("data", (bytes) => {
    text += bytes.toString("latin1")
    tell()
  })
  socket.on("error", () => {})
  socket.on("close", () => {
    over = true
    tell()
  })
  const when = (ready: () => boolean) =>
    new Promise<string>((resolve, reject) => {
      const look = () => {
        if (!ready() && !over) return
        changed.delete(look)
        if (ready()) resolve(text)
        else reject(new Error(`the connection was closed after: ${text.slice(0, 500)}`))
      }
      changed.add(look)
      look()
    })
  return {
    write: (bytes) => socket.write(bytes, "latin1"),
    until: (pattern) => when(() => pattern.test(text)),
    closed: when(() => over),
    leave: () => socket.destroy()
  }
}

const chat = (content: string, extra: Readonly<Record<string, unknown>> = {}) =>
  JSON.stringify({ model: "sandbox::echo", messages: [{ role: "user", content }], ...extra })

const head = (request: string, ...headers: ReadonlyArray<string>) =>
  [`${request} HTTP/1.1`, "Host: gateway", ...headers, "", ""].join("\r\n")

const completions = "POST /v1/chat/completions"

const bodyOf = (answer: string) => {
  const body = parsed(answer.slice(answer.indexOf("\r\n\r\n") + 4))
  const error = isJson(body) ? body["error"] : undefined
  assert.isTrue(isJson(error), answer)
  return isJson(error) ? error : {}
}

describe("what is no HTTP", () => {
  const cases: Readonly<Record<string, { readonly bytes: string; readonly status: number; readonly code: string }>> = {
    "a TLS greeting": { bytes: "\u0016\u0003\u0001\u0002\u0000\u0001\u0000", status: 400, code: "validation_error" },
    "both content-length and transfer-encoding": {
      bytes: head(completions, "Content-Length: 4", "Transfer-Encoding: chunked") + "0\r\n\r\n",
      status: 400,
      code: "validation_error"
    },
    "two lengths": {
      bytes: head(completions, "Content-Length: 4", "Content-Length: 5"),
      status: 400,
      code: "validation_error"
    },
    "a chunk without a size": {
      bytes: head(completions, "Transfer-Encoding: chunked") + "size?\r\n",
      status: 400,
      code: "validation_error"
    },
    "a NUL in the address": { bytes: head("GET /v1/mod\u0000els"), status: 400, code: "validation_error" },
    "headers of 64 KiB": {
      bytes: head("GET /v1/models", `X-Large: ${"x".repeat(65_536)}`),
      status: 431,
      code: "payload_too_large"
    }
  }

  it.each(Object.entries(cases))("%s: an error with a body, and the connection is closed", async (_, sent) => {
    const connection = talk()
    connection.write(sent.bytes)
    const answer = await connection.closed
    assert.isTrue(answer.startsWith(`HTTP/1.1 ${sent.status} `), answer)
    assert.match(answer, /\r\nconnection: close\r\n/i)
    assert.match(answer, /\r\nx-request-id: req_[0-9a-f]{32}\r\n/i)
    assert.strictEqual(bodyOf(answer)["code"], sent.code)
  })

  it("after the beginning of an answer: nothing is put into that answer", async () => {
    const body = chat("[[tokens 50 at 20]]", { stream: true })
    const connection = talk()
    connection.write(head(completions, `Content-Length: ${body.length}`) + body)
    await connection.until(/data: /)
    connection.write("this is no HTTP\r\n\r\n")
    const answer = await connection.closed
    assert.isTrue(answer.startsWith("HTTP/1.1 200 "))
    assert.strictEqual(answer.split("HTTP/1.1").length, 2)
    assert.notInclude(answer, "not valid HTTP")
  })
})

describe("rare, but HTTP", () => {
  it("expect: 100-continue is answered before the body comes", async () => {
    const body = chat("Hello")
    const connection = talk()
    connection.write(head(completions, "Expect: 100-continue", `Content-Length: ${body.length}`))
    await connection.until(/^HTTP\/1\.1 100 Continue\r\n\r\n$/)
    connection.write(body)
    assert.include(await connection.until(/Hello.*\}$/), "HTTP/1.1 200 OK")
    connection.leave()
  })

  it("expect: 100-continue for a body that is too large: refused before it comes", async () => {
    const connection = talk()
    connection.write(head(completions, "Expect: 100-continue", `Content-Length: ${maxBody + 1}`))
    const answer = await connection.closed
    assert.isTrue(answer.startsWith("HTTP/1.1 413 "), answer)
    assert.strictEqual(bodyOf(answer)["code"], "payload_too_large")
  })

  it.each(["Content-Length", "Transfer-Encoding"])(
    "an offer of HTTP/2 with a body (%s) goes on in HTTP/1.1",
    async (by) => {
      const body = chat("Hello")
      const connection = talk()
      connection.write(head(
        completions,
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        by === "Content-Length" ? `Content-Length: ${body.length}` : "Transfer-Encoding: chunked"
      ))
      connection.write(by === "Content-Length" ? body : `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`)
      const answer = await connection.until(/Hello.*\}$/)
      assert.isTrue(answer.startsWith("HTTP/1.1 200 OK"), answer)
      connection.leave()
    }
  )

  it("a websocket is asked for where there is none: an ordinary error", async () => {
    const connection = talk()
    connection.write(head(
      "GET /v1/nothing",
      "Connection: Upgrade",
      "Upgrade: websocket",
      "Sec-WebSocket-Version: 13",
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    ))
    const answer = await connection.until(/\}$/)
    assert.isTrue(answer.startsWith("HTTP/1.1 404 "), answer)
    assert.strictEqual(bodyOf(answer)["code"], "not_found")
    connection.leave()
  })

  it("a compressed body is refused with the name of the header", async () => {
    for (const [path, field] of [["/v1/chat/completions", "param"], ["/llm-gateway/v1/chat/completions", "field"]]) {
      const response = await fetch(`${gateway.url}${path}`, {
        method: "POST",
        headers: { "content-encoding": "gzip", "content-type": "application/json" },
        body: gzipSync(chat("Hello"))
      })
      assert.strictEqual(response.status, 400)
      const told = parsed(await response.text())
      const error = isJson(told) && isJson(told["error"]) ? told["error"] : told
      assert.strictEqual(isJson(error) ? error[field ?? ""] : undefined, "content-encoding")
    }
  })

  it.each([
    "/v1/models",
    "/v1/models/sandbox::echo",
    "/llm-gateway/v1/models",
    "/openapi.json",
    "/docs",
    "/health/live"
  ])(
    "HEAD %s is GET without the body",
    async (path) => {
      const [withBody, without] = await Promise.all([
        fetch(gateway.url + path),
        fetch(gateway.url + path, { method: "HEAD" })
      ])
      const length = (await withBody.arrayBuffer()).byteLength
      assert.strictEqual(without.status, 200)
      assert.strictEqual(without.headers.get("content-type"), withBody.headers.get("content-type"))
      assert.strictEqual(without.headers.get("content-length"), String(length))
    }
  )

  it.each(["/v1/chat/completions", "/llm-gateway/v1/chat/completions"])(
    "HEAD %s: not allowed, and POST is named",
    async (path) => {
      const response = await fetch(gateway.url + path, { method: "HEAD" })
      assert.strictEqual(response.status, 405)
      assert.strictEqual(response.headers.get("allow"), "POST")
    }
  )

  it.each(["TRACE", "PROPFIND"])("%s, which nothing here takes: a typed error", async (method) => {
    const connection = talk()
    connection.write(head(`${method} /v1/models`))
    const answer = await connection.until(/\}$/)
    assert.isTrue(answer.startsWith("HTTP/1.1 404 "), answer)
    assert.strictEqual(bodyOf(answer)["code"], "not_found")
    connection.leave()
  })

  it("an absolute address, chunk extensions and trailers: served, and the trailers count for nothing", async () => {
    const body = chat("Hello")
    const connection = talk()
    connection.write(
      head(`POST http://gateway/v1/chat/completions`, "Transfer-Encoding: chunked", "Trailer: X-Api-Key")
    )
    connection.write(`${body.length.toString(16)};note=1\r\n${body}\r\n0\r\nX-Api-Key: other\r\n\r\n`)
    assert.isTrue((await connection.until(/Hello.*\}$/)).startsWith("HTTP/1.1 200 OK"))
    connection.leave()
  })
})

describe("the connection afterwards", () => {
  const health = head("GET /health/live")

  it("after a refused body it serves the next request", async () => {
    const connection = talk()
    connection.write(head(completions, "Content-Length: 5") + "{bad}" + health)
    const answer = await connection.until(/"status":"ok"\}$/)
    assert.isTrue(answer.startsWith("HTTP/1.1 400 "), answer)
    connection.leave()
  })

  it("after a chunked body that was too large it is closed, as the answer says", async () => {
    const connection = talk()
    connection.write(head(completions, "Transfer-Encoding: chunked"))
    connection.write(`${(maxBody + 1).toString(16)}\r\n${"x".repeat(maxBody + 1)}\r\n`)
    const answer = await connection.closed
    assert.isTrue(answer.startsWith("HTTP/1.1 413 "), answer)
    assert.match(answer, /\r\nconnection: close\r\n/i)
  })
})
