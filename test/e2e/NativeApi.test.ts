/** The native API as its callers see it: whole answers, streams, tools, schemas, models, errors and documentation. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ChatAnswer, ChatChunk } from "../../src/sdk/Chat.ts"
import { ModelList, Problem } from "../../src/sdk/GatewayApi.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, type Json, parsed } from "../fixtures/Script.ts"

const path = "/llm-gateway/v1/chat/completions"
const weather = "gts.x.core.faas.func.v1~acme.app._.get_weather.v1~"
const place = "gts.x.core.faas.func.v1~acme.app._.place.v1~"

let gateway: RunningGateway
let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "native-api-"))
  await writeFile(
    join(folder, "weather.json"),
    JSON.stringify({
      $id: `gts://${weather}`,
      type: "object",
      description: "Tells the weather",
      properties: { place: { $ref: `gts://${place}` } },
      required: ["place"]
    })
  )
  await writeFile(
    join(folder, "place.json"),
    JSON.stringify({
      $id: `gts://${place}`,
      type: "object",
      properties: { city: { type: "string" } },
      required: ["city"]
    })
  )
  gateway = await startGateway(
    `providers:\n  sandbox: { type: sandbox }\ntype_registry: { folder: ${JSON.stringify(folder)} }\n`
  )
  await gateway.discover()
})
afterAll(async () => {
  await gateway.close()
  await rm(folder, { recursive: true })
})

const ask = (content: unknown, more: Json = {}): Json => ({
  model: "sandbox::echo",
  messages: [{ role: "user", content }],
  ...more
})

const strictly = { onExcessProperty: "error" } as const
const decodeAnswer = Schema.decodeUnknownSync(ChatAnswer, strictly)
const decodeChunk = Schema.decodeUnknownSync(ChatChunk, strictly)
const decodeProblem = Schema.decodeUnknownSync(Problem, strictly)
const decodeModels = Schema.decodeUnknownSync(ModelList, strictly)

const answered = async (body: Json): Promise<ChatAnswer> => {
  const response = await gateway.post(path, body)
  const text = await response.text()
  assert.strictEqual(response.status, 200, text)
  assert.match(response.headers.get("content-type") ?? "", /^application\/json/)
  return decodeAnswer(parsed(text))
}

const refused = async (body: Json) => {
  const response = await gateway.post(path, body)
  const problem = decodeProblem(parsed(await response.text()))
  assert.strictEqual(response.headers.get("content-type"), "application/problem+json")
  assert.strictEqual(problem.status, response.status)
  assert.strictEqual(problem.request_id, response.headers.get("x-request-id"))
  assert.strictEqual(problem.type, `urn:llm-gateway:error:${problem.code}`)
  return problem
}

const streamedEvents = async (body: Json) => {
  const response = await gateway.post(path, { ...body, stream: true })
  const text = await response.text()
  return {
    response,
    events: text.split("\n\n").filter((event) => event !== "")
  }
}

const chunksOf = (events: ReadonlyArray<string>) =>
  events.filter((event) => event.startsWith("data: {")).map((event) =>
    decodeChunk(parsed(event.slice("data: ".length)))
  )

describe("whole answers", () => {
  it("have parts, a finish reason, usage with its cost, and the model that served", async () => {
    const answer = await answered(ask([{ type: "text", text: "Hello, gateway!" }]))
    assert.deepStrictEqual(answer.content, [{ type: "text", text: "Hello, gateway!" }])
    assert.strictEqual(answer.finishReason, "stop")
    assert.strictEqual(answer.modelUsed, "sandbox::echo")
    assert.isFalse(answer.fallbackUsed)
    assert.deepStrictEqual(answer.toolCalls, [])
    assert.isAbove(answer.usage?.inputTokens ?? 0, 0)
    assert.isAbove(answer.usage?.costEstimate ?? 0, 0)
  })

  it("are written in snake_case", async () => {
    const body = parsed(await (await gateway.post(path, ask("Hello"))).text())
    if (!isJson(body)) assert.fail("no object")
    assert.containsAllKeys(body, [
      "id",
      "model",
      "content",
      "finish_reason",
      "usage",
      "model_used",
      "fallback_used",
      "tool_calls"
    ])
    assert.isTrue(isJson(body["usage"]) && "input_tokens" in body["usage"] && "cost_estimate" in body["usage"])
    assert.isTrue(Object.keys(body).every((key) => /^[a-z_]+$/.test(key)))
  })

  it("come with headers that tell what the gateway did", async () => {
    const { headers } = await gateway.post(path, ask("Hello"), { "x-request-id": "mine-1" })
    assert.strictEqual(headers.get("x-request-id"), "mine-1")
    assert.strictEqual(headers.get("x-gateway-model"), "sandbox::echo")
    assert.strictEqual(headers.get("x-gateway-provider"), "sandbox")
    assert.match(headers.get("x-gateway-attempts") ?? "", /^sandbox::echo;ok;\d+ms$/)
    assert.strictEqual(headers.get("x-gateway-fallback-used"), "false")
    assert.match(headers.get("x-gateway-cost") ?? "", /^0\.\d+$/)
    assert.match(headers.get("x-gateway-overhead-ms") ?? "", /^\d+\.\d\d$/)
  })

  it("a text in the place of content is one text part", async () => {
    const [text, parts] = [await answered(ask("Hello")), await answered(ask([{ type: "text", text: "Hello" }]))]
    assert.deepStrictEqual(text, parts)
  })
})

describe("streams", () => {
  it("are chunks, then [DONE]; joined they are the whole answer, with the same usage", async () => {
    const request = ask("One two three")
    const { events, response } = await streamedEvents(request)
    assert.strictEqual(response.status, 200)
    assert.match(response.headers.get("content-type") ?? "", /^text\/event-stream/)
    assert.strictEqual(response.headers.get("x-gateway-model"), "sandbox::echo")
    assert.strictEqual(events.at(-1), "data: [DONE]")
    const chunks = chunksOf(events)
    assert.lengthOf(chunks, events.length - 1)
    const whole = await answered(request)
    const text = chunks.flatMap(({ delta }) => delta).map((delta) => delta.type === "text" ? delta.text : "").join("")
    assert.deepStrictEqual(whole.content, [{ type: "text", text }])
    assert.deepStrictEqual(chunks.flatMap(({ finishReason }) => finishReason ?? []), ["stop"])
    assert.deepStrictEqual(chunks.at(-1)?.usage, whole.usage)
  })

  it("one that breaks ends in an error event with problem details, and without [DONE]", async () => {
    const { events, response } = await streamedEvents(ask("[[cut 2]] One two three four"))
    assert.strictEqual(response.status, 200)
    const last = events.at(-1) ?? ""
    assert.match(last, /^event: error\ndata: \{/)
    const problem = decodeProblem(parsed(last.slice("event: error\ndata: ".length)))
    assert.strictEqual(problem.code, "provider_error")
    assert.strictEqual(problem.request_id, response.headers.get("x-request-id"))
    assert.isFalse(events.includes("data: [DONE]"))
    assert.isTrue(chunksOf(events).every(({ finishReason }) => finishReason === undefined))
  })

  it("one that fails before its first content is an ordinary error", async () => {
    const response = await gateway.post(path, ask("[[fail 503]]", { stream: true }))
    assert.strictEqual(response.status, 503)
    assert.strictEqual(decodeProblem(parsed(await response.text())).code, "provider_error")
  })
})

describe("tools", () => {
  const forms: Readonly<Record<string, { readonly tool: Json; readonly name: string }>> = {
    unified: {
      tool: {
        type: "unified",
        name: "get_weather",
        parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] }
      },
      name: "get_weather"
    },
    reference: { tool: { type: "reference", schema_id: weather }, name: weather },
    inline_gts: {
      tool: {
        type: "inline_gts",
        schema: {
          $id: "gts://gts.x.core.faas.func.v1~acme.app._.find_place.v1~",
          type: "object",
          properties: { place: { $ref: `gts://${place}` } }
        }
      },
      name: "gts.x.core.faas.func.v1~acme.app._.find_place.v1~"
    }
  }
  for (const [form, { name, tool }] of Object.entries(forms)) {
    it(`${form}: the model calls it, and its result goes back`, async () => {
      const question = { role: "user", content: "What is it like?" }
      const answer = await answered({ model: "sandbox::tools", messages: [question], tools: [tool] })
      assert.strictEqual(answer.finishReason, "tool_calls")
      const [call] = answer.toolCalls
      assert.strictEqual(call?.name, name)
      assert.isTrue(isJson(parsed(call?.arguments ?? "")))
      const parts = answer.content.filter((part) => part.type === "tool_call")
      assert.deepStrictEqual(parts.map(({ id }) => id), answer.toolCalls.map(({ id }) => id))

      const after = await answered({
        model: "sandbox::tools",
        tools: [tool],
        messages: [question, { role: "assistant", content: parts }, {
          role: "tool",
          content: [{ type: "tool_result", tool_call_id: call?.id, content: [{ type: "text", text: "sunny" }] }]
        }]
      })
      assert.strictEqual(after.finishReason, "stop")
    })

    it(`${form}: streamed, the call is the same`, async () => {
      const request = { ...ask("What is it like?"), model: "sandbox::tools", tools: [tool] }
      const whole = await answered(request)
      const { events } = await streamedEvents(request)
      const deltas = chunksOf(events).flatMap(({ delta }) => delta).filter((delta) => delta.type === "tool_call")
      assert.deepStrictEqual(whole.toolCalls, [{
        id: deltas[0]?.id ?? "none",
        name: deltas[0]?.name ?? "none",
        arguments: deltas.map((delta) => delta.arguments ?? "").join("")
      }])
    })
  }

  it("a reference that the registry does not have is 404 and named", async () => {
    const missing = "gts.x.core.faas.func.v1~acme.app._.missing.v1~"
    const problem = await refused(ask("Hello", { tools: [{ type: "reference", schema_id: missing }] }))
    assert.deepInclude(problem, { status: 404, code: "schema_not_found" })
    assert.include(problem.detail, missing)
    assert.deepStrictEqual(problem.context, { ids: [missing] })
  })

  it("an identifier that breaks the grammar is 400 and named", async () => {
    const problem = await refused(ask("Hello", { tools: [{ type: "reference", schema_id: "weather" }] }))
    assert.deepInclude(problem, { status: 400, code: "invalid_schema_id" })
  })
})

describe("response schemas", () => {
  const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] }

  it("an answer that fits is given", async () => {
    const answer = await answered({
      ...ask("Where?"),
      model: "sandbox::json",
      response_schema: { type: "json_schema", name: "place", schema }
    })
    const [part] = answer.content
    assert.isTrue(part?.type === "text" && isJson(parsed(part.text)) && "city" in JSON.parse(part.text))
  })

  it("one that does not fit is a validation error, whole or streamed", async () => {
    const request = ask("[[json {\"town\":1}]]", { response_schema: { type: "json_schema", schema } })
    const problem = await refused(request)
    assert.deepInclude(problem, { status: 400, code: "validation_error" })
    assert.include(problem.detail, "city")
    const { events } = await streamedEvents(request)
    assert.include(events.at(-1), "validation_error")
    assert.isTrue(chunksOf(events).every(({ finishReason }) => finishReason === undefined))
  })
})

describe("errors", () => {
  it("are problem details that name the field, and each issue", async () => {
    const problem = await refused({ model: "", messages: [{ role: "user", content: 5 }], temperature: "hot" })
    assert.deepInclude(problem, { status: 400, code: "validation_error", title: "Validation error" })
    assert.isDefined(problem.field)
    const paths = (problem.issues ?? []).map((issue) => issue.path)
    assert.includeMembers(paths, ["model", "messages[0].content", "temperature"])
  })

  it("hold what belongs to their kind of problem", async () => {
    const image = { type: "image", source: { type: "url", url: "https://example.com/a.png" } }
    const unsupported = await refused(ask([image]))
    assert.deepInclude(unsupported, { status: 422, code: "capability_not_supported" })
    assert.deepStrictEqual(unsupported.context, {
      capability: "image_input",
      model: "sandbox::echo",
      models: ["sandbox::vision"]
    })
    const limited = await gateway.post(path, ask("[[fail 429]]"))
    assert.strictEqual(limited.status, 429)
    assert.strictEqual(limited.headers.get("retry-after"), "1")
    assert.deepInclude(decodeProblem(parsed(await limited.text())).context, { provider: "sandbox", kind: "quota" })
  })
})

describe("models", () => {
  it("are listed with capabilities, limits, prices and status", async () => {
    const response = await fetch(`${gateway.url}/llm-gateway/v1/models`)
    assert.strictEqual(response.status, 200)
    const { models } = decodeModels(parsed(await response.text()))
    const echo = models.find(({ id }) => id === "sandbox::echo")
    assert.deepInclude(echo, { provider: "sandbox", model: "echo", status: "active" })
    assert.include(echo?.capabilities ?? [], "text_output")
    assert.strictEqual(echo?.prices?.inputMtok, 1)
    assert.isAbove(echo?.contextWindow ?? 0, 0)
    assert.deepStrictEqual(models.map(({ id }) => id), models.map(({ id }) => id).toSorted())
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Documentation
// ---------------------------------------------------------------------------------------------------------------------

const at = (json: unknown, ...keys: ReadonlyArray<string>): unknown =>
  keys.reduce<unknown>((value, key) => isJson(value) ? value[key] : undefined, json)

/** Every `$ref` in a document. */
const referencesIn = (value: unknown): ReadonlyArray<string> => {
  if (Array.isArray(value)) return value.flatMap(referencesIn)
  if (!isJson(value)) return []
  return Object.entries(value).flatMap(([key, child]) =>
    key === "$ref" && typeof child === "string" ? [child] : referencesIn(child)
  )
}

describe("documentation", () => {
  const document = async () => {
    const response = await fetch(`${gateway.url}/openapi.json`)
    assert.strictEqual(response.status, 200)
    assert.match(response.headers.get("content-type") ?? "", /^application\/json/)
    return parsed(await response.text())
  }

  it("/openapi.json is OpenAPI 3.1 and covers the native paths", async () => {
    const spec = await document()
    assert.match(String(at(spec, "openapi")), /^3\.1\.\d+$/)
    assert.isString(at(spec, "info", "title"))
    assert.isString(at(spec, "info", "version"))
    const chat = at(spec, "paths", path, "post")
    assert.isString(at(chat, "operationId"))
    assert.isDefined(at(chat, "requestBody", "content", "application/json", "schema"))
    assert.isDefined(at(chat, "responses", "200", "content", "application/json"))
    assert.isDefined(at(chat, "responses", "200", "content", "text/event-stream"))
    for (const status of ["400", "401", "403", "404", "410", "413", "422", "429", "500", "502", "503", "504"]) {
      assert.isDefined(at(chat, "responses", status, "content", "application/problem+json"), status)
    }
    assert.isDefined(at(spec, "paths", "/llm-gateway/v1/models", "get", "responses", "200"))
  })

  it("all its references lead somewhere", async () => {
    const spec = await document()
    const references = referencesIn(spec)
    assert.isAbove(references.length, 0)
    for (const reference of references) {
      assert.isDefined(at(spec, ...reference.replace(/^#\//, "").split("/")), reference)
    }
  })

  it("says how a key is shown", async () => {
    const spec = await document()
    assert.deepStrictEqual(at(spec, "components", "securitySchemes", "bearer"), { type: "http", scheme: "bearer" })
    assert.deepStrictEqual(at(spec, "paths", path, "post", "security"), [{ bearer: [] }, {}])
  })

  it("its examples are requests that work", async () => {
    const examples = at(
      await document(),
      "paths",
      path,
      "post",
      "requestBody",
      "content",
      "application/json",
      "examples"
    )
    if (!isJson(examples)) assert.fail("no examples")
    assert.isAbove(Object.keys(examples).length, 1)
    for (const example of Object.values(examples)) {
      const response = await gateway.post(path, at(example, "value"))
      const text = await response.text()
      assert.strictEqual(response.status, 200, text)
    }
  })

  it("/docs is a page", async () => {
    const response = await fetch(`${gateway.url}/docs`)
    assert.strictEqual(response.status, 200)
    assert.match(response.headers.get("content-type") ?? "", /^text\/html/)
    assert.match(await response.text(), /<html/i)
  })
})
