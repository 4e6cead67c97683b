/**
 * Every recorded chat of every provider, through the running gateway: the fake upstream answers as the real one did, byte
 * for byte, and the caller must read from OpenAI's dialect what an independent reader of the recording found.
 *
 * The request is the recorded one. Where it is in another wire's words it is put into OpenAI's by hand here, and a plain
 * prompt stands in for what cannot be put so.
 */
import { afterAll, afterEach, assert, beforeAll, beforeEach, describe, it } from "@effect/vitest"
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import {
  eventsOfRecording,
  expectedChat,
  hasRecordings,
  isStream,
  type Recording,
  recordings,
  replay,
  wireOf
} from "../fixtures/Recordings.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { dataOf, isJson, type Json, parsed, type Wire } from "../fixtures/Script.ts"

const path = "/v1/chat/completions"

const chatPaths: Readonly<Record<Wire, string>> = {
  openai: "/v1/chat/completions",
  anthropic: "/v1/messages",
  ollama: "/api/chat"
}

const isChat = (recording: Recording): boolean =>
  recording.request.method === "POST" && recording.request.path.split("?", 1)[0] === chatPaths[wireOf(recording)]

const chats = (["openai", "anthropic", "ollama"] as const).flatMap((provider) => recordings(provider)).filter(isChat)

const nameOf = (recording: Recording): string => `${recording.provider}/${recording.name}`

// ---------------------------------------------------------------------------------------------------------------------
// Recorded requests in OpenAI's words
// ---------------------------------------------------------------------------------------------------------------------

const list = (value: unknown): ReadonlyArray<unknown> => Array.isArray(value) ? value : []
const objects = (value: unknown): ReadonlyArray<Json> => list(value).filter(isJson)
const isText = (value: unknown): value is string => typeof value === "string"

/** The keys whose values are there. */
const present = (fields: Json): Json =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined && value !== null))

/** What has no form in OpenAI's words. */
class Untranslatable extends Error {}

const anthropicPart = (block: Json): Json => {
  const cached = present({ cache_control: block["cache_control"] })
  const source = isJson(block["source"]) ? block["source"] : {}
  switch (block["type"]) {
    case "text":
      return { type: "text", text: block["text"], ...cached }
    case "image":
      return {
        type: "image_url",
        image_url: {
          url: source["type"] === "url"
            ? source["url"]
            : `data:${String(source["media_type"])};base64,${String(source["data"])}`
        },
        ...cached
      }
    case "document": {
      const data = source["type"] === "text" ? Buffer.from(String(source["data"])).toString("base64") : source["data"]
      return {
        type: "file",
        file: {
          filename: block["title"] ?? "a.pdf",
          file_data: `data:${String(source["media_type"])};base64,${String(data)}`
        },
        ...cached
      }
    }
    default:
      throw new Untranslatable(String(block["type"]))
  }
}

const anthropicContent = (content: unknown): unknown => isText(content) ? content : objects(content).map(anthropicPart)

const anthropicMessages = (message: Json): ReadonlyArray<Json> => {
  const { content, role } = message
  if (isText(content)) return [{ role, content }]
  const blocks = objects(content)
  if (role === "assistant") {
    const calls = blocks.filter((block) => block["type"] === "tool_use")
    const thinking = blocks.filter((block) => block["type"] === "thinking" || block["type"] === "redacted_thinking")
    const rest = blocks.filter((block) => !calls.includes(block) && !thinking.includes(block))
    return [{
      role,
      content: rest.length === 0 ? null : rest.map(anthropicPart),
      ...(thinking.length === 0 ? {} : { thinking_blocks: thinking }),
      ...(calls.length === 0 ? {} : {
        tool_calls: calls.map((call) =>
          present({
            id: call["id"],
            type: "function",
            function: { name: call["name"], arguments: JSON.stringify(call["input"]) },
            cache_control: call["cache_control"]
          })
        )
      })
    }]
  }
  const results = blocks.filter((block) => block["type"] === "tool_result")
  const rest = blocks.filter((block) => !results.includes(block))
  return [
    ...results.map((block) => ({
      role: "tool",
      tool_call_id: block["tool_use_id"],
      content: anthropicContent(block["content"])
    })),
    ...(rest.length === 0 ? [] : [{ role, content: rest.map(anthropicPart) }])
  ]
}

const anthropicChoice = (choice: Json): unknown => {
  switch (choice["type"]) {
    case "tool":
      return { type: "function", function: { name: choice["name"] } }
    case "any":
      return "required"
    default:
      return choice["type"]
  }
}

const fromAnthropic = (body: Json): Json => {
  const { system, tools, tool_choice: choice, output_config: output } = body
  const format = isJson(output) && isJson(output["format"]) ? output["format"] : undefined
  return present({
    messages: [
      ...(system === undefined ? [] : [{ role: "system", content: anthropicContent(system) }]),
      ...objects(body["messages"]).flatMap(anthropicMessages)
    ],
    tools: tools === undefined ? undefined : objects(tools).map((tool) => ({
      type: "function",
      function: present({
        name: tool["name"],
        description: tool["description"],
        parameters: tool["input_schema"],
        strict: tool["strict"]
      })
    })),
    tool_choice: isJson(choice) ? anthropicChoice(choice) : undefined,
    parallel_tool_calls: isJson(choice) && choice["disable_parallel_tool_use"] === true ? false : undefined,
    response_format: format === undefined
      ? undefined
      : { type: "json_schema", json_schema: { name: "answer", schema: format["schema"] } },
    max_completion_tokens: body["max_tokens"],
    temperature: body["temperature"],
    stop: body["stop_sequences"]
  })
}

const fromOllama = (body: Json): Json => {
  const options = isJson(body["options"]) ? body["options"] : {}
  const { format, think } = body
  // Ollama's calls have no ids; results follow them in order.
  let calls = 0
  let answered = 0
  const messages = objects(body["messages"]).map((message): Json => {
    const { content, images, role, tool_calls: toolCalls } = message
    if (role === "tool") return { role, content, tool_call_id: `call_${answered++}` }
    if (toolCalls !== undefined) {
      return {
        role,
        content,
        tool_calls: objects(toolCalls).map((call) => {
          const named = isJson(call["function"]) ? call["function"] : {}
          return {
            id: `call_${calls++}`,
            type: "function",
            function: { name: named["name"], arguments: JSON.stringify(named["arguments"]) }
          }
        })
      }
    }
    if (images === undefined) return { role, content }
    return {
      role,
      content: [
        { type: "text", text: content },
        ...list(images).map((data) => ({
          type: "image_url",
          image_url: { url: `data:image/png;base64,${String(data)}` }
        }))
      ]
    }
  })
  return present({
    messages,
    tools: body["tools"],
    response_format: isJson(format)
      ? { type: "json_schema", json_schema: { name: "answer", schema: format } }
      : undefined,
    reasoning_effort: think === false ? "none" : undefined,
    max_completion_tokens: options["num_predict"],
    temperature: options["temperature"],
    seed: options["seed"]
  })
}

/** The recorded request for the gateway, streamed or not; usage is asked for wherever a stream can tell it. */
const requestOf = (recording: Recording, stream: boolean): Json => {
  const wire = wireOf(recording)
  const body = recording.request.body ?? {}
  const model = isText(body["model"]) ? body["model"] : "model-1"
  const common = {
    model: `${wire}::${model}`,
    stream,
    ...(stream ? { stream_options: { include_usage: true } } : {})
  }
  if (wire === "openai") {
    const { stream_options: _, ...rest } = body
    return { ...rest, ...common }
  }
  try {
    return { ...(wire === "anthropic" ? fromAnthropic(body) : fromOllama(body)), ...common }
  } catch (error) {
    if (!(error instanceof Untranslatable)) throw error
    return { messages: [{ role: "user", content: "Hello" }], ...common }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// What a caller reads
// ---------------------------------------------------------------------------------------------------------------------

interface Call {
  readonly id: string
  readonly name: string
  readonly arguments: string
}

/** One choice as a caller of OpenAI's dialect reads it. */
interface Choice {
  readonly text: string
  readonly refusal: string
  readonly reasoning: string
  readonly calls: ReadonlyArray<Call>
  readonly finish: string | null
}

interface Read {
  readonly model: string
  readonly choices: ReadonlyArray<Choice>
  readonly usage: Json | undefined
}

type Draft<A> = { -readonly [K in keyof A]: A[K] }

interface ReadStream extends Read {
  readonly done: boolean
  readonly error: Json | undefined
  /** The events as they came, the terminator not included. */
  readonly events: ReadonlyArray<Json>
}

const textOf = (json: Json, ...keys: ReadonlyArray<string>): string => {
  for (const key of keys) {
    const value = json[key]
    if (isText(value)) return value
  }
  return ""
}

const finishOf = (choice: Json): string | null => isText(choice["finish_reason"]) ? choice["finish_reason"] : null

const functionOf = (call: Json): Json => isJson(call["function"]) ? call["function"] : {}

const readWhole = (body: Json): Read => ({
  model: textOf(body, "model"),
  choices: objects(body["choices"]).map((choice) => {
    const message = isJson(choice["message"]) ? choice["message"] : {}
    return {
      text: textOf(message, "content"),
      refusal: textOf(message, "refusal"),
      reasoning: textOf(message, "reasoning_content", "reasoning"),
      calls: objects(message["tool_calls"]).map((call) => ({
        id: textOf(call, "id"),
        name: textOf(functionOf(call), "name"),
        arguments: textOf(functionOf(call), "arguments")
      })),
      finish: finishOf(choice)
    }
  }),
  usage: isJson(body["usage"]) ? body["usage"] : undefined
})

const readStream = (text: string): ReadStream => {
  assert.match(text, /^(?:data: [^\r\n]+\n\n)+$/)
  const data = text.split("\n\n").filter((line) => line !== "").map((line) => line.slice("data: ".length))
  const done = data.at(-1) === "[DONE]"
  const events = data.slice(0, done ? -1 : undefined).map(parsed).filter(isJson)
  const choices: Array<Draft<Choice> & { readonly byIndex: Map<unknown, Draft<Call>> }> = []
  let model = ""
  let usage: Json | undefined
  let error: Json | undefined
  for (const event of events) {
    if (isJson(event["error"])) error = event["error"]
    model = textOf(event, "model") || model
    if (isJson(event["usage"])) usage = event["usage"]
    for (const piece of objects(event["choices"])) {
      const index = Number(piece["index"])
      const choice = choices[index] ??= {
        text: "",
        refusal: "",
        reasoning: "",
        calls: [],
        finish: null,
        byIndex: new Map()
      }
      const delta = isJson(piece["delta"]) ? piece["delta"] : {}
      choice.text += textOf(delta, "content")
      choice.refusal += textOf(delta, "refusal")
      choice.reasoning += textOf(delta, "reasoning_content", "reasoning")
      choice.finish = finishOf(piece) ?? choice.finish
      for (const call of objects(delta["tool_calls"])) {
        const known = choice.byIndex.get(call["index"]) ?? { id: "", name: "", arguments: "" }
        known.id += textOf(call, "id")
        known.name += textOf(functionOf(call), "name")
        known.arguments += textOf(functionOf(call), "arguments")
        choice.byIndex.set(call["index"], known)
      }
    }
  }
  return {
    model,
    choices: choices.map(({ byIndex, finish, reasoning, refusal, text }) => ({
      text,
      refusal,
      reasoning,
      calls: [...byIndex.values()],
      finish
    })),
    usage,
    done,
    error,
    events
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// What is expected
// ---------------------------------------------------------------------------------------------------------------------

const finishes: Readonly<Record<string, string>> = {
  end_turn: "stop",
  stop_sequence: "stop",
  max_tokens: "length",
  tool_use: "tool_calls",
  refusal: "content_filter"
}

const number = (json: Json, key: string): number => typeof json[key] === "number" ? json[key] : 0

/** The usage that OpenAI's words have for the recorded one. */
const checkUsage = (recording: Recording, told: Json | undefined, expected: Json | undefined): void => {
  if (expected === undefined) {
    assert.isUndefined(told, "the provider told no usage, and none is made up in its name")
    return
  }
  if (wireOf(recording) === "openai") {
    assert.deepStrictEqual(told, expected)
    return
  }
  const read = number(expected, "cache_read_input_tokens")
  const written = number(expected, "cache_creation_input_tokens")
  const prompt = wireOf(recording) === "ollama"
    ? number(expected, "prompt_eval_count")
    : number(expected, "input_tokens") + read + written
  const completion = number(expected, wireOf(recording) === "ollama" ? "eval_count" : "output_tokens")
  assert.deepInclude(told, {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion
  })
  const details = told?.["prompt_tokens_details"]
  assert.deepInclude(details, { cached_tokens: read, ...(written > 0 ? { cache_write_tokens: written } : {}) })
}

const argumentsOf = (text: string): unknown => parsed(text)

/** The recorded choices; a wire without choices has one. */
const expectedChoices = (recording: Recording): ReadonlyArray<Json> => {
  const choices = objects(recording.expect["choices"])
  return choices.length === 0 ? [recording.expect] : choices
}

/** The body of the recorded response, as text. */
const recordedText = ({ response }: Recording): string =>
  response.lines?.join("\n") ?? response.text ?? JSON.stringify(response.body)

const check = (recording: Recording, read: Read): void => {
  const expected = expectedChat(recording)
  const choices = expectedChoices(recording)
  assert.lengthOf(read.choices, choices.length)
  for (const [index, choice] of choices.entries()) {
    const of: Recording = { ...recording, expect: { ...recording.expect, choices: [choice] } }
    const one = choices.length === 1 ? expected : expectedChat(of)
    const got = read.choices[index] ?? assert.fail(`no choice ${index}`)
    assert.strictEqual(got.text, one.text)
    if (one.finish === "refusal") {
      assert.include(recordedText(recording), JSON.stringify(got.refusal), "in its own words")
    } else assert.strictEqual(got.refusal, one.refusal ?? "")
    assert.strictEqual(got.reasoning, one.reasoning ?? "")
    assert.deepStrictEqual(
      got.calls.map((call) => ({ name: call.name, arguments: argumentsOf(call.arguments) })),
      one.toolCalls.map((call) => ({ name: call.name, arguments: call.arguments }))
    )
    for (const [at, call] of one.toolCalls.entries()) {
      if (call.id === undefined) assert.isNotEmpty(got.calls[at]?.id, "a call without an id gets one")
      else assert.strictEqual(got.calls[at]?.id, call.id)
    }
    assert.strictEqual(new Set(got.calls.map((call) => call.id)).size, got.calls.length)
    const finish = finishes[one.finish ?? ""] ?? one.finish
    assert.strictEqual(got.finish, finish === "stop" && one.toolCalls.length > 0 ? "tool_calls" : finish)
  }
  assert.strictEqual(read.model, expected.model)
  checkUsage(recording, read.usage, expected.usage)
}

// ---------------------------------------------------------------------------------------------------------------------
// Tests
// ---------------------------------------------------------------------------------------------------------------------

describe.skipIf(!hasRecordings)("recorded chats", () => {
  let upstream: FakeUpstream
  let gateway: RunningGateway
  beforeAll(async () => {
    upstream = await startFakeUpstream()
    gateway = await startGateway(`
defaults: { attempts: 1 }
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow }
  anthropic: { type: anthropic, base_url: "${upstream.url}", api_key: upstream-key, unlisted_models: allow }
  ollama: { type: ollama, base_url: "${upstream.url}", unlisted_models: allow }
`)
  })
  afterAll(async () => {
    await gateway.close()
    await upstream.close()
  })
  beforeEach(() => upstream.reset())
  afterEach(() => {
    assert.deepStrictEqual(upstream.requests.flatMap((request) => request.problem ?? []), [])
  })

  /** That the upstream was asked for what had been recorded. */
  const checkSent = (recording: Recording, stream: boolean): void => {
    assert.lengthOf(upstream.requests, 1, "one answer, one attempt")
    const { json, wire } = upstream.request(0)
    const body = recording.request.body ?? {}
    assert.strictEqual(wire, wireOf(recording))
    // To Ollama a name without a tag means the tag `latest`, and the gateway calls a model by one name.
    const model = String(body["model"])
    assert.strictEqual(json["model"], wire === "ollama" && !model.includes(":") ? `${model}:latest` : model)
    assert.strictEqual(json["stream"] === true, stream)
    const toolsOf = (request: Json) =>
      objects(request["tools"]).map((tool) =>
        wire === "anthropic"
          ? [tool["name"], tool["description"], tool["input_schema"]]
          : [functionOf(tool)["name"], functionOf(tool)["description"], functionOf(tool)["parameters"]]
      )
    assert.deepStrictEqual(toolsOf(json), toolsOf(body))
  }

  it("are there", () => {
    assert.isAbove(chats.length, 60)
    for (const wire of ["openai", "anthropic", "ollama"]) {
      assert.isTrue(chats.some((recording) => wireOf(recording) === wire))
    }
  })

  describe("whole answers", () => {
    for (const recording of chats.filter((chat) => chat.response.status === 200 && !isStream(chat))) {
      it(nameOf(recording), async () => {
        upstream.reply(replay(recording))
        const response = await gateway.post(path, requestOf(recording, false))
        const text = await response.text()
        assert.strictEqual(response.status, 200, text)
        const body = parsed(text)
        check(recording, readWhole(isJson(body) ? body : {}))
        checkSent(recording, false)
        if (wireOf(recording) === "openai") assert.deepStrictEqual(body, recording.response.body, "nothing is lost")
      })
    }
  })

  describe("streams", () => {
    for (const recording of chats.filter((chat) => isStream(chat) && chat.expect["error"] === undefined)) {
      it(nameOf(recording), async () => {
        upstream.reply(replay(recording))
        const response = await gateway.post(path, requestOf(recording, true))
        const text = await response.text()
        assert.strictEqual(response.status, 200, text)
        const read = readStream(text)
        check(recording, read)
        assert.isTrue(read.done, "the stream ends in its success marker")
        assert.isUndefined(read.error)
        checkSent(recording, true)
        if (wireOf(recording) === "openai") {
          assert.deepStrictEqual(
            read.events,
            eventsOfRecording(recording).map(dataOf).filter(isJson),
            "nothing is lost"
          )
        }
      })

      it(`${nameOf(recording)}, cut before its end`, async () => {
        const last = eventsOfRecording(recording).findLastIndex((event) => event.trim() !== "")
        upstream.reply(withFault(replay(recording), fault.end(last)))
        const response = await gateway.post(path, requestOf(recording, true))
        const text = await response.text()
        if (response.status === 200) {
          const { done, error } = readStream(text)
          assert.isFalse(done, "no success marker")
          assert.strictEqual(error?.["code"], "provider_error")
        } else {
          // Nothing of the answer had come before the cut.
          assert.strictEqual(response.status, 502, text)
          assert.include(text, "provider_error")
        }
      })
    }
  })

  describe("streams that fail after their status was told", () => {
    for (const recording of chats.filter((chat) => isStream(chat) && chat.expect["error"] !== undefined)) {
      it(nameOf(recording), async () => {
        upstream.reply(replay(recording))
        const response = await gateway.post(path, requestOf(recording, true))
        assert.strictEqual(response.status, 200)
        const { choices, done, error, events } = readStream(await response.text())
        assert.isFalse(done, "no success marker")
        assert.strictEqual(events.at(-1)?.["error"], error, "the error is the last event")
        assert.strictEqual(error?.["code"], "provider_error")
        assert.include(
          textOf(error ?? {}, "message"),
          textOf(
            isJson(recording.expect["error"]) ? recording.expect["error"] : {},
            "message"
          )
        )
        assert.strictEqual(choices[0]?.text, expectedChat(recording).text, "what had come before is kept")
        assert.isNull(choices[0]?.finish ?? null)
      })
    }
  })

  describe("errors", () => {
    /** The caller's status for the upstream's. */
    const statuses: Readonly<Record<number, number>> = { 400: 400, 401: 502, 429: 429, 500: 502, 503: 503, 529: 503 }

    for (const recording of chats.filter((chat) => chat.response.status >= 400)) {
      it.each([false, true])(`${nameOf(recording)} (stream: %s)`, async (stream) => {
        const { headers, status } = recording.response
        upstream.reply(replay(recording))
        const response = await gateway.post(path, requestOf(recording, stream))
        assert.strictEqual(response.status, statuses[status] ?? assert.fail(`no rule for ${status}`))
        const body = parsed(await response.text())
        const error = isJson(body) && isJson(body["error"]) ? body["error"] : assert.fail("no error object")
        const told = isJson(recording.expect["error"]) ? recording.expect["error"]["error"] : undefined
        const original = isJson(told) ? told : {}
        assert.strictEqual(error["code"], status === 400 ? original["code"] : "provider_error")
        assert.strictEqual(error["param"], original["param"] ?? null)
        const message = textOf(error, "message")
        assert.isNotEmpty(message)
        if (status === 401) assert.notInclude(message, "invalid-", "no part of the gateway's own key")
        else assert.include(message, textOf(original, "message").slice(0, 100))
        assert.notInclude(message, "<html")
        const asked = Number(headers["retry-after-ms"] ?? 0) / 1000 || Number(headers["retry-after"] ?? 0)
        const wait = response.headers.get("retry-after")
        if (asked > 0) assert.isAtLeast(Number(wait), asked)
        else if (original["code"] === "insufficient_quota") assert.isNull(wait, "no wait mends it")
        assert.lengthOf(upstream.requests, 1)
      })
    }
  })
})
