/**
 * What a caller can get wrong, by accident or on purpose, in the OpenAI dialect and in the native API: every case is
 * answered with a typed error in the dialect's own body, that error holds neither the prompt nor a key, and the gateway
 * goes on serving afterwards.
 */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { createHash } from "node:crypto"
import { connect } from "node:net"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, type Json, parsed } from "../fixtures/Script.ts"

/** Stands in every prompt here, and may not come back in any error. */
const secretWords = "PROMPT-WORDS-7731"
const key = "gw-a-very-secret-key"

/** What an error says, in whichever body. */
interface Told {
  readonly code: unknown
  readonly message: unknown
  readonly field: unknown
  readonly candidates?: unknown
}

interface Dialect {
  readonly path: string
  readonly models: string
  readonly contentType: string
  readonly tell: (body: Json) => Told
  /** The field of the tool call's id in a message with a tool's result. */
  readonly orphan: { readonly message: Json; readonly field: string }
  readonly image: (data: string) => { readonly content: unknown; readonly field: string }
}

const member = (json: Json, name: string): Json => {
  const value = json[name]
  return isJson(value) ? value : {}
}

const dialects: Readonly<Record<"OpenAI" | "native", Dialect>> = {
  OpenAI: {
    path: "/v1/chat/completions",
    models: "/v1/models",
    contentType: "application/json",
    tell: (body) => {
      const error = member(body, "error")
      assert.isString(error["type"])
      return { code: error["code"], message: error["message"], field: error["param"] ?? undefined }
    },
    orphan: {
      message: { role: "tool", tool_call_id: "call_nowhere", content: secretWords },
      field: "messages[1].tool_call_id"
    },
    image: (data) => ({
      content: [{ type: "image_url", image_url: { url: `data:image/png;base64,${data}` } }],
      field: "messages[0].content[0].image_url.url"
    })
  },
  native: {
    path: "/llm-gateway/v1/chat/completions",
    models: "/llm-gateway/v1/models",
    contentType: "application/problem+json",
    tell: (body) => {
      assert.isString(body["type"])
      assert.isString(body["title"])
      assert.isString(body["request_id"])
      return {
        code: body["code"],
        message: body["detail"],
        field: body["field"],
        candidates: member(body, "context")["candidates"]
      }
    },
    orphan: {
      message: { role: "tool", content: [{ type: "tool_result", tool_call_id: "call_nowhere", content: [] }] },
      field: "messages[1].content[0].tool_call_id"
    },
    image: (data) => ({
      content: [{ type: "image", source: { type: "base64", media_type: "image/png", data } }],
      field: "messages[0].content[0].source.data"
    })
  }
}

const messages = [{ role: "user", content: secretWords }]
const good = { model: "sandbox::echo", messages }

const openArrays = (levels: number) => "[".repeat(levels) + "]".repeat(levels)
const openObjects = (levels: number) => "{\"a\":".repeat(levels) + "1" + "}".repeat(levels)
/** A good request's text with one more member, written by hand. */
const withMember = (name: string, json: string) => `${JSON.stringify(good).slice(0, -1)},"${name}":${json}}`

const streamOf = (bytes: number) => new Blob(["x".repeat(bytes)]).stream()

/** A case: what is sent, and what has to come back. `field` is checked where it is given. */
interface Case {
  readonly body?: string | Uint8Array<ArrayBuffer> | ReadableStream
  readonly json?: unknown
  readonly headers?: Readonly<Record<string, string>>
  readonly method?: string
  readonly path?: string
  readonly status: number
  readonly code: string
  readonly field?: string
  readonly says?: string
}

const validation = { status: 400, code: "validation_error" }
const tooDeep = (field?: string) => ({ ...validation, says: "nests deeper", ...(field === undefined ? {} : { field }) })

const cases = (dialect: Dialect): Readonly<Record<string, Case>> => ({
  "malformed JSON": { body: `{"model": "${secretWords}`, ...validation },
  "an empty body": { body: "", ...validation, says: "empty" },
  "a body that is an array": { body: "[]", ...validation },
  "a body that is a string": { body: `"${secretWords}"`, ...validation },
  "a body that is null": { body: "null", ...validation },
  "a body that is a number": { body: "17", ...validation },
  "invalid UTF-8": {
    body: new Uint8Array([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d]),
    ...validation,
    says: "UTF-8"
  },
  "no model": { json: { messages }, ...validation, field: "model" },
  "a model that is a number": { json: { model: 5, messages }, ...validation, field: "model" },
  "an empty model": { json: { model: "", messages }, ...validation, field: "model" },
  "no messages": { json: { model: "sandbox::echo" }, ...validation, field: "messages" },
  "empty messages": { json: { model: "sandbox::echo", messages: [] }, ...validation },
  "messages that are text": { json: { ...good, messages: secretWords }, ...validation, field: "messages" },
  "a message that is a number": { json: { ...good, messages: [7] }, ...validation, field: "messages[0]" },
  "an unknown role": {
    json: { ...good, messages: [{ role: "emperor", content: secretWords }] },
    ...validation,
    field: "messages[0].role"
  },
  "content that is a number": {
    json: { ...good, messages: [{ role: "user", content: 7 }] },
    ...validation,
    field: "messages[0].content"
  },
  "a part that is null": {
    json: { ...good, messages: [{ role: "user", content: [null] }] },
    ...validation,
    field: "messages[0].content[0]"
  },
  "a temperature that is text": { json: { ...good, temperature: "hot" }, ...validation, field: "temperature" },
  "a temperature out of range": { json: { ...good, temperature: 3 }, ...validation, field: "temperature" },
  "an infinite temperature": { body: withMember("temperature", "1e999"), ...validation, field: "temperature" },
  "an infinite seed": { body: withMember("seed", "-1e999"), ...validation, field: "seed" },
  "a seed beyond all integers": { body: withMember("seed", "1e300"), ...validation, field: "seed" },
  "a stream that is text": { json: { ...good, stream: "yes" }, ...validation, field: "stream" },
  "tools that are an object": { json: { ...good, tools: {} }, ...validation, field: "tools" },
  "a stop that is a number": { json: { ...good, stop: 1 }, ...validation, field: "stop" },
  "metadata with a number": { json: { ...good, metadata: { a: 1 } }, ...validation, field: "metadata.a" },
  "n of nothing": { json: { ...good, n: 0 }, ...validation, field: "n" },
  "a tool's result without its call": {
    json: { ...good, messages: [...messages, dialect.orphan.message] },
    ...validation,
    field: dialect.orphan.field
  },
  "an image that is no base64": {
    json: { model: "sandbox::vision", messages: [{ role: "user", content: dialect.image("%%% no base64").content }] },
    ...validation,
    field: dialect.image("").field
  },
  "an unknown provider": {
    json: { ...good, model: "nowhere::echo" },
    status: 404,
    code: "model_not_found",
    says: "nowhere"
  },
  "an unknown bare model": { json: { ...good, model: "no-such-model" }, status: 404, code: "model_not_found" },
  "a bare model that two providers have": {
    json: { ...good, model: "echo" },
    status: 404,
    code: "model_not_found",
    says: "second::echo"
  },
  "a model called __proto__": { json: { ...good, model: "__proto__" }, status: 404, code: "model_not_found" },
  "a model of a provider called constructor": {
    json: { ...good, model: "constructor::prototype" },
    status: 404,
    code: "model_not_found"
  },
  "a model's name of a megabyte": {
    json: { ...good, model: "x".repeat(1_000_000) },
    status: 404,
    code: "model_not_found"
  },
  "a role of a megabyte": {
    json: { ...good, messages: [{ role: "x".repeat(1_000_000), content: "" }] },
    ...validation,
    field: "messages[0].role"
  },
  "ten thousand bad messages": {
    json: { ...good, messages: Array.from({ length: 10_000 }, () => ({ role: "emperor", content: 1 })) },
    ...validation,
    field: "messages[0].role"
  },
  "nested arrays in an unknown field": { body: withMember("zzz", openArrays(100_000)), ...tooDeep("zzz") },
  "nested objects in an unknown field": { body: withMember("zzz", openObjects(100_000)), ...tooDeep("zzz") },
  "nested objects in the metadata": { body: withMember("metadata", openObjects(100_000)), ...tooDeep("metadata") },
  "nested objects in the extensions": {
    body: withMember("extensions", openObjects(100_000)),
    ...tooDeep("extensions")
  },
  "nested objects in a tool": {
    body: withMember("tools", `[{"type":"unified","name":"x","parameters":${openObjects(100_000)}}]`),
    ...tooDeep("tools")
  },
  "nested arrays as the body": { body: openArrays(100_000), ...tooDeep() },
  "nested arrays as the content": {
    body: `{"model":"sandbox::echo","messages":[{"role":"user","content":${openArrays(100_000)}}]}`,
    ...tooDeep("messages")
  },
  "a body that is too large": {
    json: { ...good, padding: "x".repeat(2_100_000) },
    status: 413,
    code: "payload_too_large",
    says: "2000000"
  },
  "a body that is too large and does not say so": { body: streamOf(2_100_000), status: 413, code: "payload_too_large" },
  "a time-out that is a word": {
    json: good,
    headers: { "x-gateway-timeout-idle": "soon" },
    ...validation,
    field: "x-gateway-timeout-idle"
  },
  "a negative time-out": {
    json: good,
    headers: { "x-gateway-timeout-total": "-5s" },
    ...validation,
    field: "x-gateway-timeout-total"
  },
  "a time-out of nothing": {
    json: good,
    headers: { "x-gateway-timeout-first-token": "0" },
    ...validation,
    field: "x-gateway-timeout-first-token"
  },
  "a time-out in bytes beyond ASCII": {
    json: good,
    headers: { "x-gateway-timeout-connect": "5\u00b5s\u00ff" },
    ...validation,
    field: "x-gateway-timeout-connect"
  },
  "the wrong method": { method: "PUT", body: "{}", status: 405, code: "method_not_allowed", says: "POST" },
  "a method for the models": { path: dialect.models, body: "{}", status: 405, code: "method_not_allowed", says: "GET" },
  "an unknown path": { path: `${dialect.models}-of-the-future`, json: good, status: 404, code: "not_found" }
})

const nativeCases: Readonly<Record<string, Case>> = {
  "an unknown field": { json: { ...good, temprature: 1 }, ...validation, field: "temprature" },
  "an unknown field in a message": {
    json: { ...good, messages: [{ role: "user", content: secretWords, mood: "good" }] },
    ...validation,
    field: "messages[0].mood"
  },
  "an unknown type of part": {
    json: { ...good, messages: [{ role: "user", content: [{ type: "smell", text: secretWords }] }] },
    ...validation,
    field: "messages[0].content[0]"
  },
  "a key of a megabyte": { json: { ...good, ["x".repeat(1_000_000)]: 1 }, ...validation },
  "__proto__ at the top": { body: withMember("__proto__", "{\"polluted\":1}"), ...validation, field: "__proto__" },
  "constructor at the top": {
    body: withMember("constructor", "{\"prototype\":{\"polluted\":1}}"),
    ...validation,
    field: "constructor"
  },
  "__proto__ in a message": {
    body:
      "{\"model\":\"sandbox::echo\",\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"__proto__\":{\"polluted\":1}}]}",
    ...validation,
    field: "messages[0].__proto__"
  }
}

const openAiCases: Readonly<Record<string, Case>> = {
  "a model's id that is no percent-encoding": {
    path: "/v1/models/%ff%",
    method: "GET",
    status: 404,
    code: "not_found"
  },
  "a model's id of many kilobytes": {
    path: `/v1/models/${"x".repeat(8000)}`,
    method: "GET",
    status: 404,
    code: "model_not_found"
  }
}

const isDialect = (name: string): name is keyof typeof dialects => Object.hasOwn(dialects, name)

const send = (gateway: RunningGateway, dialect: Dialect, sent: Case): Promise<Response> => {
  const body = sent.json === undefined ? sent.body : JSON.stringify(sent.json)
  return fetch(gateway.url + (sent.path ?? dialect.path), {
    method: sent.method ?? "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${key}`, ...sent.headers },
    ...(body === undefined ? {} : { body }),
    ...(body instanceof ReadableStream ? { duplex: "half" } : {})
  })
}

const check = async (gateway: RunningGateway, dialect: Dialect, sent: Case): Promise<void> => {
  const response = await send(gateway, dialect, sent)
  const text = await response.text()
  const body = parsed(text)
  if (!isJson(body)) return assert.fail(`${response.status} without a JSON body: ${text.slice(0, 200)}`)
  const told = dialect.tell(body)
  assert.deepStrictEqual({ status: response.status, code: told.code }, { status: sent.status, code: sent.code }, text)
  assert.strictEqual(response.headers.get("content-type"), dialect.contentType)
  assert.match(response.headers.get("x-request-id") ?? "", /^req_[0-9a-f]{32}$/)
  assert.isString(told.message)
  assert.notStrictEqual(told.message, "")
  if (sent.field !== undefined) assert.strictEqual(told.field, sent.field)
  else assert.notStrictEqual(told.field, "", "no field is told rather than an empty one")
  if (sent.says !== undefined) assert.include(String(told.message), sent.says)
  if (sent.status === 405) assert.include(told.message, response.headers.get("allow") ?? "an allow header")
  assert.isBelow(text.length, 8000, "the error is bounded")
  assert.notInclude(text, secretWords)
  assert.notInclude(text, key)
}

describe.each(Object.keys(dialects).filter(isDialect))("%s: bad input", (name) => {
  const dialect = dialects[name]
  let gateway: RunningGateway
  beforeAll(async () => {
    gateway = await startGateway(
      "server: { max_body: 2MB }\nproviders:\n  sandbox: { type: sandbox }\n  second: { type: sandbox }\n"
    )
    await gateway.discover()
  })
  afterAll(() => gateway.close())

  const works = async (body: unknown = good, headers: Readonly<Record<string, string>> = {}): Promise<Response> => {
    const response = await gateway.post(dialect.path, body, headers)
    assert.strictEqual(response.status, 200, await response.clone().text())
    return response
  }

  const table = { ...cases(dialect), ...(name === "native" ? nativeCases : openAiCases) }
  for (const [what, sent] of Object.entries(table)) {
    it(what, async () => {
      await check(gateway, dialect, sent)
      await works()
      assert.isUndefined(Object.getOwnPropertyDescriptor(Object.prototype, "polluted"))
    })
  }

  it("the candidates of an ambiguous model are listed", async () => {
    const response = await gateway.post(dialect.path, { ...good, model: "echo" })
    const body = parsed(await response.text())
    const told = dialect.tell(isJson(body) ? body : {})
    assert.include(told.message, "sandbox::echo")
    assert.include(told.message, "second::echo")
    if (name === "native") assert.deepStrictEqual(told.candidates, ["sandbox::echo", "second::echo"])
  })

  it("ten thousand messages are answered in good time", async () => {
    const started = performance.now()
    await works({
      ...good,
      messages: Array.from(
        { length: 10_000 },
        (_, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content: `${i}` })
      )
    })
    assert.isBelow(performance.now() - started, 2000)
  })

  it("a lone surrogate in the prompt is ordinary text", async () => {
    await works("{\"model\":\"sandbox::echo\",\"messages\":[{\"role\":\"user\",\"content\":\"a \\ud800 b\"}]}")
  })

  it("of a duplicate key the last one counts, as JSON.parse has it", async () => {
    const text = JSON.stringify({ ...good, model: "nowhere::echo" })
    await works(`${text.slice(0, -1)},"model":"sandbox::echo"}`)
  })

  it("hostile keys where any key is allowed do no harm", async () => {
    await works(withMember("metadata", "{\"__proto__\":\"x\",\"constructor\":\"y\",\"prototype\":\"z\"}"))
    await works(withMember("logit_bias", "{\"__proto__\":1,\"constructor\":2}"))
    if (name === "OpenAI") {
      await works(withMember("__proto__", "{\"polluted\":1}"))
      await works(withMember("constructor", "{\"prototype\":{\"polluted\":1}}"))
    }
    const polluted: unknown = Reflect.get({}, "polluted")
    assert.isUndefined(polluted)
  })

  it("nesting that a request can need is let through", async () => {
    const parameters = JSON.parse("{\"type\":\"object\",\"properties\":{\"a\":".repeat(40) + "{}" + "}}".repeat(40))
    const tool = name === "native"
      ? { type: "unified", name: "deep", parameters }
      : { type: "function", function: { name: "deep", parameters } }
    await works({ ...good, tools: [tool] })
  })

  it("a request id that is fit for a header is taken over, any other is replaced", async () => {
    for (const id of ["abc-123", "0f:1.2_3", "a".repeat(128)]) {
      assert.strictEqual((await works(good, { "x-request-id": id })).headers.get("x-request-id"), id)
    }
    for (const id of ["<script>", "a b", "a".repeat(129), "\u00e9", "../../etc/passwd", "%0d%0aset-cookie: a=b"]) {
      assert.match((await works(good, { "x-request-id": id })).headers.get("x-request-id") ?? "", /^req_[0-9a-f]{32}$/)
    }
  })

  it("headers with odd bytes do no harm", async () => {
    const port = Number(new URL(gateway.url).port)
    const body = JSON.stringify(good)
    const answer = await new Promise<string>((resolve, reject) => {
      let text = ""
      const socket = connect(port, "127.0.0.1", () => {
        socket.write(Buffer.from(
          `POST ${dialect.path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: ${body.length}\r\n` +
            `x-gateway-user: \u0080\u00ff\u00fe\r\nx-request-id: \u00ff\u00fe\r\nuser-agent: \t \r\nx-empty:\r\n\r\n${body}`,
          "latin1"
        ))
      })
      socket.on("data", (bytes) => {
        text += bytes.toString("utf8")
      })
      socket.on("end", () => resolve(text))
      socket.on("error", reject)
    })
    assert.match(answer, /^HTTP\/1\.1 200 /)
    assert.match(answer, /x-request-id: req_[0-9a-f]{32}/i)
  })

  it("a request that is no HTTP is refused, and the next one is served", async () => {
    const port = Number(new URL(gateway.url).port)
    const answer = await new Promise<string>((resolve) => {
      let text = ""
      const socket = connect(port, "127.0.0.1", () => socket.write("\u0016\u0003\u0001 this is no HTTP\r\n\r\n"))
      socket.on("data", (bytes) => {
        text += bytes.toString("utf8")
      })
      socket.on("error", () => {})
      socket.on("close", () => resolve(text))
    })
    assert.match(answer, /^HTTP\/1\.1 400 |^$/)
    await works()
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Keys and approvals
// ---------------------------------------------------------------------------------------------------------------------

const sha256 = (text: string) => createHash("sha256").update(text).digest("hex")
const otherKey = "gw-another-secret-key"
const oldKey = "gw-an-expired-key"

describe.each(Object.keys(dialects).filter(isDialect))("%s: keys and approvals", (name) => {
  const dialect = dialects[name]
  let gateway: RunningGateway
  beforeAll(async () => {
    gateway = await startGateway(`
auth:
  mode: keys
  keys:
    - { id: all, sha256: ${sha256(key)}, tenant: open }
    - { id: few, sha256: ${sha256(otherKey)}, tenant: closed }
    - { id: old, sha256: ${sha256(oldKey)}, tenant: open, expires: 2020-01-01 }
tenants:
  open: {}
  closed: { models: ["sandbox::echo"] }
providers:
  sandbox: { type: sandbox }
`)
    await gateway.discover()
  })
  afterAll(() => gateway.close())

  const refused = async (response: Response, status: number, code: string) => {
    const text = await response.text()
    assert.strictEqual(response.status, status, text)
    const body = parsed(text)
    assert.strictEqual(dialect.tell(isJson(body) ? body : {}).code, code)
    for (const secret of [key, otherKey, oldKey, secretWords]) assert.notInclude(text, secret)
    return text
  }
  const asking = (headers: Readonly<Record<string, string>>, model = "sandbox::echo") =>
    gateway.post(dialect.path, { ...good, model }, headers)

  it("without a key nothing is served, and the body is not even read", async () => {
    await refused(await asking({}), 401, "unauthorized")
    await refused(await gateway.post(dialect.path, "no JSON"), 401, "unauthorized")
    await refused(await fetch(gateway.url + dialect.models), 401, "unauthorized")
    await refused(await gateway.post(`${dialect.models}-of-the-future`, good), 401, "unauthorized")
  })

  it("a wrong key is refused, whatever its form", async () => {
    await refused(await asking({ authorization: "Bearer wrong" }), 401, "unauthorized")
    await refused(await asking({ authorization: `Basic ${key}` }), 401, "unauthorized")
    await refused(await asking({ authorization: "Bearer " }), 401, "unauthorized")
    await refused(await asking({ authorization: key }), 401, "unauthorized")
    await refused(await asking({ "x-api-key": `${key}x` }), 401, "unauthorized")
    await refused(await asking({ authorization: `Bearer ${"x".repeat(8000)}` }), 401, "unauthorized")
    await refused(await asking({ authorization: `Bearer ${sha256(key)}` }), 401, "unauthorized")
  })

  it("a key that has expired is refused", async () => {
    await refused(await asking({ authorization: `Bearer ${oldKey}` }), 401, "unauthorized")
  })

  it("a good key is let in, as a bearer or as x-api-key", async () => {
    for (
      const headers of [{ authorization: `Bearer ${key}` }, { authorization: `bearer  ${key} ` }, { "x-api-key": key }]
    ) {
      const response = await asking(headers)
      assert.strictEqual(response.status, 200, await response.text())
    }
  })

  it("health asks for no key", async () => {
    assert.strictEqual((await fetch(`${gateway.url}/health/live`)).status, 200)
    assert.strictEqual((await fetch(`${gateway.url}/health/ready`)).status, 200)
  })

  it("a model that the tenant may not use is refused, streamed or not", async () => {
    const headers = { authorization: `Bearer ${otherKey}` }
    assert.strictEqual((await asking(headers)).status, 200)
    await refused(await asking(headers, "sandbox::lorem"), 403, "model_not_approved")
    await refused(
      await gateway.post(dialect.path, { ...good, model: "sandbox::lorem", stream: true }, headers),
      403,
      "model_not_approved"
    )
  })

  it("the list of models holds only those that the tenant may use", async () => {
    const list = async (secret: string) => {
      const response = await fetch(gateway.url + dialect.models, { headers: { authorization: `Bearer ${secret}` } })
      const body = parsed(await response.text())
      const models = isJson(body) ? body["data"] ?? body["models"] : undefined
      return Array.isArray(models) ? models.filter(isJson).map((model) => model["id"]) : []
    }
    assert.deepStrictEqual(await list(otherKey), ["sandbox::echo"])
    assert.isAbove((await list(key)).length, 5)
  })
})
