/**
 * Works out the table of docs/PROVIDERS.md that says what works through which dialect with which provider: every cell is asked of a
 * running gateway, with upstreams that speak the provider's wire and remember what they got. A cell is `yes` only where the thing
 * went there and came back whole; what is refused is told with its code, and what is neither makes the page impossible to write.
 */
import { type FakeUpstream, startFakeUpstream } from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { type RunningGateway, startGateway } from "../fixtures/RunningGateway.ts"
import { isJson, type Json, parsed, type Script } from "../fixtures/Script.ts"
import { at, list, type Saying, type Speaker, speakers } from "../fixtures/Speakers.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { anthropic } from "../fixtures/AnthropicWire.ts"
import { ollama } from "../fixtures/OllamaWire.ts"

// ---------------------------------------------------------------------------------------------------------------------
// What came back, in no dialect's words
// ---------------------------------------------------------------------------------------------------------------------

interface Answer {
  text: string
  thinking: string
  readonly calls: Array<{ name: string; json: string }>
  input: number | undefined
  output: number | undefined
  /** `stop`, `length` or `tools`; undefined where the answer has no good end. */
  end: string | undefined
  failed: boolean
}

const empty = (): Answer => ({
  text: "",
  thinking: "",
  calls: [],
  input: undefined,
  output: undefined,
  end: undefined,
  failed: false
})

const word = (value: unknown): string => typeof value === "string" ? value : ""
const number = (value: unknown): number | undefined => typeof value === "number" ? value : undefined

const ends: Readonly<Record<string, string>> = {
  stop: "stop",
  end_turn: "stop",
  completed: "stop",
  length: "length",
  max_tokens: "length",
  max_output_tokens: "length",
  tool_calls: "tools",
  tool_use: "tools"
}
const endOf = (value: unknown): string | undefined => ends[word(value)]

const callAt = (answer: Answer, index: number): Answer["calls"][number] => {
  answer.calls[index] ??= { name: "", json: "" }
  return answer.calls[index]
}

const values = (body: string): ReadonlyArray<Json> =>
  body.split("\n")
    .map((line) => line.startsWith("data: ") ? line.slice(6) : line)
    .filter((line) => line.startsWith("{"))
    .map(parsed)
    .filter(isJson)

// ---------------------------------------------------------------------------------------------------------------------
// Dialects
// ---------------------------------------------------------------------------------------------------------------------

/** What is asked, in no dialect's words. */
interface Question {
  readonly model: string
  readonly prompt: string
  readonly stream?: boolean
  readonly image?: string
  readonly tools?: boolean
  /** Tool calls of an earlier turn, with their results. */
  readonly results?: boolean
  readonly schema?: Json
  readonly think?: boolean
}

interface Dialect {
  readonly path: string
  readonly body: (question: Question) => Json
  readonly read: (body: string, stream: boolean) => Answer
}

const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] }
const called = [{ id: "call_a", city: "Paris" }, { id: "call_b", city: "Oslo" }]
const resultOf = (city: string) => `sunny in ${city}`

const chatUsage = (answer: Answer, usage: unknown): void => {
  answer.input = number(at(usage, "prompt_tokens")) ?? answer.input
  answer.output = number(at(usage, "completion_tokens")) ?? answer.output
}

const chat: Dialect = {
  path: "/v1/chat/completions",
  body: ({ image, model, prompt, results, schema, stream, think, tools }) => ({
    model,
    messages: [
      {
        role: "user",
        content: image === undefined
          ? prompt
          : [{ type: "text", text: prompt }, {
            type: "image_url",
            image_url: { url: `data:image/png;base64,${image}` }
          }]
      },
      ...(results === true
        ? [
          {
            role: "assistant",
            content: null,
            tool_calls: called.map(({ city, id }) => ({
              id,
              type: "function",
              function: { name: "get_weather", arguments: JSON.stringify({ city }) }
            }))
          },
          ...called.map(({ city, id }) => ({ role: "tool", tool_call_id: id, content: resultOf(city) }))
        ]
        : [])
    ],
    ...(tools === true || results === true
      ? { tools: [{ type: "function", function: { name: "get_weather", parameters } }] }
      : {}),
    ...(schema === undefined ? {} : {
      response_format: { type: "json_schema", json_schema: { name: "place", schema, strict: true } }
    }),
    ...(think === true ? { reasoning_effort: "low" } : {}),
    ...(stream === true ? { stream, stream_options: { include_usage: true } } : {})
  }),
  read: (body, stream) => {
    const answer = empty()
    for (const value of values(body)) {
      if (value["error"] !== undefined) answer.failed = true
      chatUsage(answer, value["usage"])
      const choice = at(value, "choices", 0)
      const message = at(choice, stream ? "delta" : "message")
      answer.text += word(at(message, "content"))
      answer.thinking += word(at(message, "reasoning_content"))
      for (const [index, call] of list(at(message, "tool_calls")).entries()) {
        const found = callAt(answer, number(at(call, "index")) ?? index)
        found.name += word(at(call, "function", "name"))
        found.json += word(at(call, "function", "arguments"))
      }
      answer.end = endOf(at(choice, "finish_reason")) ?? answer.end
    }
    if (stream && !body.includes("data: [DONE]")) answer.end = undefined
    return answer
  }
}

const messages: Dialect = {
  path: "/v1/messages",
  body: ({ image, model, prompt, results, schema, stream, think, tools }) => ({
    model,
    max_tokens: 4000,
    messages: [
      {
        role: "user",
        content: image === undefined
          ? prompt
          : [
            { type: "text", text: prompt },
            { type: "image", source: { type: "base64", media_type: "image/png", data: image } }
          ]
      },
      ...(results === true
        ? [
          {
            role: "assistant",
            content: called.map(({ city, id }) => ({ type: "tool_use", id, name: "get_weather", input: { city } }))
          },
          {
            role: "user",
            content: called.map(({ city, id }) => ({ type: "tool_result", tool_use_id: id, content: resultOf(city) }))
          }
        ]
        : [])
    ],
    ...(tools === true || results === true ? { tools: [{ name: "get_weather", input_schema: parameters }] } : {}),
    ...(schema === undefined ? {} : { output_config: { format: { type: "json_schema", schema } } }),
    ...(think === true ? { thinking: { type: "enabled", budget_tokens: 1024 } } : {}),
    ...(stream === true ? { stream } : {})
  }),
  read: (body, stream) => {
    const answer = empty()
    const usage = (value: unknown): void => {
      answer.input = number(at(value, "input_tokens")) ?? answer.input
      answer.output = number(at(value, "output_tokens")) ?? answer.output
    }
    const names: Array<number> = []
    for (const value of values(body)) {
      if (value["type"] === "error") answer.failed = true
      if (!stream) {
        usage(value["usage"])
        answer.end = endOf(value["stop_reason"])
        for (const block of list(value["content"])) {
          answer.text += word(at(block, "text"))
          answer.thinking += word(at(block, "thinking"))
          if (at(block, "type") === "tool_use") {
            answer.calls.push({ name: word(at(block, "name")), json: JSON.stringify(at(block, "input")) })
          }
        }
        continue
      }
      usage(at(value, "message", "usage"))
      usage(value["usage"])
      const index = number(value["index"]) ?? 0
      if (at(value, "content_block", "type") === "tool_use") {
        names.push(index)
        callAt(answer, names.length - 1).name = word(at(value, "content_block", "name"))
      }
      answer.text += word(at(value, "delta", "text"))
      answer.thinking += word(at(value, "delta", "thinking"))
      const json = word(at(value, "delta", "partial_json"))
      if (json !== "") callAt(answer, names.indexOf(index)).json += json
      answer.end = endOf(at(value, "delta", "stop_reason")) ?? answer.end
    }
    if (stream && !body.includes("event: message_stop")) answer.end = undefined
    return answer
  }
}

const responses: Dialect = {
  path: "/v1/responses",
  body: ({ image, model, prompt, results, schema, stream, think, tools }) => ({
    model,
    store: false,
    input: [
      {
        role: "user",
        content: image === undefined
          ? prompt
          : [
            { type: "input_text", text: prompt },
            { type: "input_image", detail: "auto", image_url: `data:image/png;base64,${image}` }
          ]
      },
      ...(results === true
        ? [
          ...called.map(({ city, id }) => ({
            type: "function_call",
            call_id: id,
            name: "get_weather",
            arguments: JSON.stringify({ city })
          })),
          ...called.map(({ city, id }) => ({ type: "function_call_output", call_id: id, output: resultOf(city) }))
        ]
        : [])
    ],
    ...(tools === true || results === true
      ? { tools: [{ type: "function", name: "get_weather", parameters, strict: false }] }
      : {}),
    ...(schema === undefined ? {} : { text: { format: { type: "json_schema", name: "place", schema, strict: true } } }),
    ...(think === true ? { reasoning: { effort: "low", summary: "auto" } } : {}),
    ...(stream === true ? { stream } : {})
  }),
  read: (body, stream) => {
    const answer = empty()
    const whole = (response: unknown): void => {
      answer.input = number(at(response, "usage", "input_tokens")) ?? answer.input
      answer.output = number(at(response, "usage", "output_tokens")) ?? answer.output
      const cut = word(at(response, "incomplete_details", "reason"))
      const output = list(at(response, "output"))
      for (const item of output) {
        if (at(item, "type") === "function_call") {
          answer.calls.push({ name: word(at(item, "name")), json: word(at(item, "arguments")) })
        }
        for (const part of list(at(item, "summary"))) answer.thinking += word(at(part, "text"))
        for (const part of list(at(item, "content"))) {
          if (at(part, "type") === "reasoning_text") answer.thinking += word(at(part, "text"))
          if (!stream && at(part, "type") === "output_text") answer.text += word(at(part, "text"))
        }
      }
      answer.end = answer.calls.length > 0 ? "tools" : endOf(cut) ?? endOf(at(response, "status"))
    }
    if (!stream) {
      for (const value of values(body)) {
        if (isJson(value["error"])) answer.failed = true
        whole(value)
      }
      return answer
    }
    for (const value of values(body)) {
      const { type } = value
      if (type === "response.output_text.delta") answer.text += word(value["delta"])
      else if (type === "response.completed" || type === "response.incomplete") whole(value["response"])
      else if (type === "response.failed" || type === "error") answer.failed = true
    }
    return answer
  }
}

const ollamaChat: Dialect = {
  path: "/api/chat",
  body: ({ image, model, prompt, results, schema, stream, think, tools }) => ({
    model,
    stream: stream === true,
    messages: [
      { role: "user", content: prompt, ...(image === undefined ? {} : { images: [image] }) },
      ...(results === true
        ? [
          {
            role: "assistant",
            content: "",
            tool_calls: called.map(({ city, id }) => ({ id, function: { name: "get_weather", arguments: { city } } }))
          },
          ...called.map(({ city, id }) => ({
            role: "tool",
            tool_name: "get_weather",
            tool_call_id: id,
            content: resultOf(city)
          }))
        ]
        : [])
    ],
    ...(tools === true || results === true
      ? { tools: [{ type: "function", function: { name: "get_weather", parameters } }] }
      : {}),
    ...(schema === undefined ? {} : { format: schema }),
    ...(think === true ? { think: true } : {})
  }),
  read: (body) => {
    const answer = empty()
    for (const value of values(body)) {
      if (value["error"] !== undefined) answer.failed = true
      answer.input = number(value["prompt_eval_count"]) ?? answer.input
      answer.output = number(value["eval_count"]) ?? answer.output
      answer.text += word(at(value, "message", "content"))
      answer.thinking += word(at(value, "message", "thinking"))
      for (const call of list(at(value, "message", "tool_calls"))) {
        answer.calls.push({
          name: word(at(call, "function", "name")),
          json: JSON.stringify(at(call, "function", "arguments"))
        })
      }
      if (value["done"] === true) {
        answer.end = answer.calls.length > 0 ? "tools" : endOf(value["done_reason"])
      }
    }
    return answer
  }
}

const native: Dialect = {
  path: "/llm-gateway/v1/chat/completions",
  body: ({ image, model, prompt, results, schema, stream, think, tools }) => ({
    model,
    messages: [
      {
        role: "user",
        content: image === undefined
          ? prompt
          : [
            { type: "text", text: prompt },
            { type: "image", source: { type: "base64", media_type: "image/png", data: image } }
          ]
      },
      ...(results === true
        ? [
          {
            role: "assistant",
            content: called.map(({ city, id }) => ({
              type: "tool_call",
              id,
              name: "get_weather",
              arguments: JSON.stringify({ city })
            }))
          },
          {
            role: "tool",
            content: called.map(({ city, id }) => ({
              type: "tool_result",
              tool_call_id: id,
              content: [{ type: "text", text: resultOf(city) }]
            }))
          }
        ]
        : [])
    ],
    ...(tools === true || results === true ? { tools: [{ type: "unified", name: "get_weather", parameters }] } : {}),
    ...(schema === undefined ? {} : { response_schema: { type: "json_schema", name: "place", schema } }),
    ...(think === true ? { reasoning: { effort: "low" } } : {}),
    ...(stream === true ? { stream } : {})
  }),
  read: (body, stream) => {
    const answer = empty()
    const indices: Array<number> = []
    for (const value of values(body)) {
      if (value["code"] !== undefined) answer.failed = true
      answer.input = number(at(value, "usage", "input_tokens")) ?? answer.input
      answer.output = number(at(value, "usage", "output_tokens")) ?? answer.output
      answer.end = endOf(value["finish_reason"]) ?? answer.end
      for (const part of [...list(value["content"]), ...list(value["delta"])]) {
        const type = at(part, "type")
        if (type === "text") answer.text += word(at(part, "text"))
        else if (type === "reasoning") answer.thinking += word(at(part, "text"))
        else if (type === "tool_call") {
          const index = number(at(part, "index")) ?? answer.calls.length
          if (!indices.includes(index)) indices.push(index)
          const found = callAt(answer, indices.indexOf(index))
          found.name += word(at(part, "name"))
          found.json += word(at(part, "arguments"))
        }
      }
    }
    if (stream && !body.includes("data: [DONE]")) answer.end = undefined
    return answer
  }
}

const dialects: Readonly<Record<string, Dialect>> = {
  "Chat Completions": chat,
  "Messages": messages,
  "Responses": responses,
  "Ollama": ollamaChat,
  "native": native
}

// ---------------------------------------------------------------------------------------------------------------------
// Providers
// ---------------------------------------------------------------------------------------------------------------------

/** A provider as the features see it. What the sandbox says is in the prompt, what an upstream says in its script. */
interface Target {
  readonly model: string
  readonly upstream: Speaker | undefined
  readonly cut: (saying: Saying) => Script
}

const cutAt = (speaker: Speaker) => (saying: Saying): Script => withFault(speaker.say(saying), fault.cut(speaker.lead))

const targets: Readonly<Record<string, Target>> = {
  openai: { model: speakers.openai.model, upstream: speakers.openai, cut: cutAt(speakers.openai) },
  anthropic: { model: speakers.anthropic.model, upstream: speakers.anthropic, cut: cutAt(speakers.anthropic) },
  ollama: { model: speakers.ollama.model, upstream: speakers.ollama, cut: cutAt(speakers.ollama) },
  sandbox: { model: "sandbox::vision", upstream: undefined, cut: () => openAi.error(500) }
}

/** Answers that end because they are too long. */
const tooLong: Readonly<Record<string, Script>> = {
  openai: openAi.answer({ text: ["One"], finishReason: "length" }),
  anthropic: anthropic.answer({ text: ["One"], stopReason: "max_tokens" }),
  ollama: ollama.answer({ text: ["One"], doneReason: "length" })
}

interface Setting {
  readonly name: string
  readonly target: Target
  readonly gateway: RunningGateway
  readonly upstream: FakeUpstream
  readonly ask: (script: Script | undefined, question: Omit<Question, "model">) => Promise<{
    readonly status: number
    readonly answer: Answer
    readonly body: string
  }>
}

const png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
const place = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false
}

const says = ({ target }: Setting, saying: Saying): Script | undefined => target.upstream?.say(saying)
const isSandbox = ({ target }: Setting): boolean => target.upstream === undefined

/** Each thing, and whether it went there and came back whole. */
const features: Readonly<Record<string, (setting: Setting) => Promise<boolean | number>>> = {
  "text": async (setting) => {
    const { answer, status } = await setting.ask(says(setting, { text: ["One ", "two"] }), {
      prompt: "One two[[json]]"
    })
    return status === 200 ? answer.text.includes("One two") && answer.end === "stop" : status
  },
  "streamed text": async (setting) => {
    const { answer, status } = await setting.ask(says(setting, { text: ["One ", "two"] }), {
      prompt: "One two[[json]]",
      stream: true
    })
    return status === 200 ? answer.text.includes("One two") && answer.end === "stop" : status
  },
  "usage": async (setting) => {
    const whole = await setting.ask(says(setting, { text: ["One"] }), { prompt: "One" })
    const streamed = await setting.ask(says(setting, { text: ["One"] }), { prompt: "One", stream: true })
    if (whole.status !== 200) return whole.status
    return [whole, streamed].every(({ answer: { input, output } }) =>
      isSandbox(setting) ? (input ?? 0) > 0 && (output ?? 0) > 0 : input === 9 && output === 12
    )
  },
  "tools in parallel": async (setting) => {
    const toolCalls = called.map(({ city, id }) => ({ id, name: "get_weather", input: { city } }))
    const prompt = called.map(({ city }) => `[[tool get_weather ${JSON.stringify({ city })}]]`).join("")
    const asked = [false, true].map(async (stream) =>
      setting.ask(says(setting, { toolCalls }), { prompt, tools: true, stream })
    )
    for (const made of asked) {
      const { answer, status } = await made
      if (status !== 200) return status
      const cities = answer.calls.map(({ json }) => at(parsed(json), "city"))
      if (cities.join() !== "Paris,Oslo" || answer.end !== "tools") return false
    }
    const { upstream } = setting.target
    return upstream === undefined || JSON.stringify(upstream.tools(setting.upstream.request(0).body)).includes("city")
  },
  "tool results": async (setting) => {
    const { status } = await setting.ask(says(setting, { text: ["Sunny"] }), { prompt: "Weather?", results: true })
    if (status !== 200) return status
    const { upstream } = setting.target
    if (upstream === undefined) return true
    const sent = JSON.stringify(upstream.results(setting.upstream.request(0).body))
    return called.every(({ city }) => sent.includes(resultOf(city)))
  },
  "images": async (setting) => {
    const { answer, status } = await setting.ask(says(setting, { text: ["A dot"] }), { prompt: "Look", image: png })
    if (status !== 200) return status
    const { upstream } = setting.target
    return upstream === undefined
      ? answer.text.includes("image/png")
      : upstream.images(setting.upstream.request(0).body).join() === png
  },
  "structured output": async (setting) => {
    const { answer, status } = await setting.ask(says(setting, { text: ["{\"city\":\"Paris\"}"] }), {
      prompt: "[[json {\"city\":\"Paris\"}]]",
      schema: place
    })
    return status === 200 ? at(parsed(answer.text), "city") === "Paris" : status
  },
  "reasoning": async (setting) => {
    const { answer, status } = await setting.ask(says(setting, { thinking: ["Let me think"], text: ["One"] }), {
      prompt: "[[reason Let me think]] One",
      think: true
    })
    return status === 200 ? answer.thinking.trim() === "Let me think" : status
  },
  "end by length": async (setting) => {
    const { answer, status } = await setting.ask(tooLong[setting.name], { prompt: "One[[finish length]]" })
    return status === 200 ? answer.end === "length" : status
  },
  "error before the answer": async (setting) => {
    const { status } = await setting.ask(setting.target.upstream?.error(429, { "retry-after": "7" }), {
      prompt: "[[fail 429]]"
    })
    return status === 429
  },
  "error within a stream": async (setting) => {
    const { answer, status } = await setting.ask(
      setting.target.upstream === undefined ? undefined : setting.target.cut({ text: ["One ", "two ", "three"] }),
      { prompt: "One two three four five [[cut 2]]", stream: true }
    )
    return status === 200 && answer.failed && answer.end === undefined
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The table
// ---------------------------------------------------------------------------------------------------------------------

const cell = async (
  dialect: Dialect,
  feature: (setting: Setting) => Promise<boolean | number>,
  setting: Omit<Setting, "ask">,
  what: string
): Promise<string> => {
  setting.upstream.reset()
  let last = ""
  const ask: Setting["ask"] = async (script, question) => {
    if (script !== undefined) setting.upstream.reply(script)
    const response = await setting.gateway.post(
      dialect.path,
      dialect.body({ ...question, model: setting.target.model })
    )
    const body = await response.text()
    last = body
    return { status: response.status, answer: dialect.read(body, question.stream === true), body }
  }
  const worked = await feature({ ...setting, ask })
  if (worked === true) return "yes"
  const code = /"code":\s*"([a-z_]+)"/.exec(last)?.[1]
  if (typeof worked === "number" && code !== undefined) return `refused: \`${code}\``
  throw new Error(`${what} neither works nor is refused: ${last.slice(0, 2_000)}`)
}

/** One table for each dialect: a row for each thing, a column for each provider. */
export const dialectMatrix = async (): Promise<string> => {
  const upstream = await startFakeUpstream()
  const gateway = await startGateway(`
defaults: { attempts: 1 }
providers:
  openai: { type: openai, base_url: "${upstream.url}/v1", api_key: upstream-key, unlisted_models: allow }
  anthropic: { type: anthropic, base_url: "${upstream.url}", api_key: upstream-key, unlisted_models: allow }
  ollama: { type: ollama, base_url: "${upstream.url}", unlisted_models: allow }
  sandbox: { type: sandbox }
`)
  try {
    await gateway.discover()
    const rows: Array<string> = []
    const names = Object.keys(targets)
    rows.push(`| Dialect | Thing | ${names.map((name) => `\`${name}\``).join(" | ")} |`)
    rows.push(`| --- | --- | ${names.map(() => "---").join(" | ")} |`)
    for (const [title, dialect] of Object.entries(dialects)) {
      for (const [thing, feature] of Object.entries(features)) {
        const cells: Array<string> = []
        for (const [name, target] of Object.entries(targets)) {
          cells.push(await cell(dialect, feature, { name, target, gateway, upstream }, `${title}, ${thing}, ${name}`))
        }
        rows.push(`| ${title} | ${thing} | ${cells.join(" | ")} |`)
      }
    }
    return rows.join("\n")
  } finally {
    await gateway.close()
    await upstream.close()
  }
}
