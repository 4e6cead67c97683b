/** Where personal data is looked for, what is done about it, and what stays as it is. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Pii from "../../../src/plugins/interceptors/pii/Pii.ts"
import type { ChatRequest } from "../../../src/sdk/Chat.ts"
import { text, textOf } from "../../../src/sdk/Content.ts"
import { allow } from "../../../src/sdk/Interceptor.ts"
import { answered, answering, asking, contextOf, intercepted } from "./Answers.ts"

const mail = "jane@example.com"
const image = { type: "image" as const, source: { type: "url" as const, url: `https://x.org/${mail}` } }

/** A conversation with an address in every place that holds text. */
const everywhere = (address: string): ChatRequest => ({
  model: "plain::m",
  messages: [
    { role: "system", content: [text(`Help ${address}.`)] },
    { role: "developer", content: [text(address)] },
    {
      role: "user",
      name: "jane",
      content: [text(`I am ${address}`), image, {
        type: "document",
        source: { type: "text", text: `From: ${address}` },
        title: `Mail to ${address}`,
        context: address
      }]
    },
    {
      role: "assistant",
      content: [
        { type: "reasoning", text: `Thinking of ${address}` },
        { type: "text", text: "cited", citations: [{ type: "char", id: "i", cited_text: `by ${address}`, n: 1 }] },
        {
          type: "tool_call",
          id: "c1",
          name: "send",
          arguments: JSON.stringify({ to: [address], body: `Hi\n"${address}"`, n: 1 })
        }
      ]
    },
    {
      role: "tool",
      content: [{
        type: "tool_result",
        toolCallId: "c1",
        content: [text(`sent to ${address}`), { type: "document", source: { type: "text", text: address } }]
      }]
    },
    {
      role: "assistant",
      content: [{ type: "refusal", text: `I will not write to ${address}` }, {
        type: "audio",
        source: { type: "base64", mediaType: "audio/wav", data: "AA==" },
        transcript: address
      }]
    }
  ]
})

describe("a request", () => {
  it.effect("is redacted in every place that holds text, and nowhere else", () =>
    Effect.gen(function*() {
      const redacted = yield* intercepted(yield* Pii.make({}), everywhere(mail))
      assert.deepStrictEqual(redacted, everywhere("[EMAIL]"))
    }))

  it.effect("keeps the JSON of arguments as it was written", () =>
    Effect.gen(function*() {
      const json = (address: string) =>
        `{ "n": 1.0, "to": "${address}",\n "big": 12345678901234567890, "s": "\\u00e9\\/ok" }`
      const call = (args: string) => asking({ type: "tool_call", id: "c", name: "f", arguments: args })
      const pii = yield* Pii.make({})
      assert.deepStrictEqual(yield* intercepted(pii, call(json(mail))), call(json("[EMAIL]")))
      // Escapes hide nothing, a cut is no obstacle, and text that is no JSON is looked through as text.
      assert.deepStrictEqual(
        yield* intercepted(pii, call("{\"a\":\"jane\\u0040example.com\"}")),
        call("{\"a\":\"[EMAIL]\"}")
      )
      assert.deepStrictEqual(yield* intercepted(pii, call(`{"a":"${mail}`)), call("{\"a\":\"[EMAIL]"))
      assert.deepStrictEqual(yield* intercepted(pii, call(`to ${mail}`)), call("to [EMAIL]"))
      assert.deepStrictEqual(yield* intercepted(pii, call("{\"jane@example.com\":1}")), call("{\"[EMAIL]\":1}"))
    }))

  it.effect("with signed reasoning keeps it, since the signature is for the text as it is", () =>
    Effect.gen(function*() {
      const request = asking({ type: "reasoning", text: mail, signature: "s" }, { type: "reasoning", data: mail })
      assert.strictEqual(yield* intercepted(yield* Pii.make({}), request), request)
      assert.strictEqual(
        yield* Effect.flip(intercepted(yield* Pii.make({ action: "block" }), asking(mail))),
        "it holds an e-mail address"
      )
    }))

  it.effect("in which nothing is found passes as it is", () =>
    Effect.gen(function*() {
      const { pre } = yield* Pii.make({})
      assert.strictEqual(yield* pre?.(everywhere("nobody"), contextOf().context) ?? Effect.die("no pre"), allow)
    }))

  it.effect("is looked through for what was asked, and on the sides that were asked", () =>
    Effect.gen(function*() {
      const only = yield* Pii.make({ detect: ["ip"], on: ["request"] })
      const { messages } = yield* intercepted(only, asking(`${mail} 10.0.0.1`))
      assert.strictEqual(textOf(messages[0].content), `${mail} [IP]`)
      assert.isUndefined(only.post)
      assert.isUndefined(only.stream)
      assert.isUndefined((yield* Pii.make({ on: ["response"] })).pre)
      const passed = yield* Pii.make({ name: "n", order: 7, failure: "open", timeoutMs: 5, appliesTo: () => true })
      assert.deepInclude(passed, { name: "n", order: 7, failure: "open", timeoutMs: 5 })
    }))
})

describe("an answer", () => {
  it.effect("is redacted, its alternatives too", () =>
    Effect.gen(function*() {
      const response = { ...answering(mail), alternatives: [{ content: [text(mail)], finishReason: "stop" as const }] }
      const redacted = yield* answered(yield* Pii.make({}), response)
      assert.strictEqual(textOf(redacted.content), "[EMAIL]")
      assert.strictEqual(textOf(redacted.alternatives?.[0]?.content ?? []), "[EMAIL]")
    }))

  it.effect("that must be JSON stays JSON", () =>
    Effect.gen(function*() {
      const request: ChatRequest = { ...asking("?"), responseSchema: { type: "json_object" } }
      const redacted = yield* answered(
        yield* Pii.make({}),
        answering("{\"card\": 4111111111111111, \"holder\": \"jane@example.com\"}"),
        request
      )
      assert.strictEqual(textOf(redacted.content), "{\"card\": 4111111111111111, \"holder\": \"[EMAIL]\"}")
    }))

  it.effect("is blocked for what it holds, in words that do not repeat it", () =>
    Effect.gen(function*() {
      const pii = yield* Pii.make({ action: "block", patterns: { project: "Project \\w+" } })
      const reasons: Record<string, string> = {
        "jane@example.com": "it holds an e-mail address",
        "+49 170 1234567": "it holds a phone number",
        "4111111111111111": "it holds a credit card number",
        "DE89370400440532013000": "it holds an IBAN",
        "10.0.0.1": "it holds an IP address",
        "Project Apollo": "it holds what the pattern \"project\" describes"
      }
      for (const [value, reason] of Object.entries(reasons)) {
        assert.strictEqual(yield* Effect.flip(answered(pii, answering(`so: ${value}`))), reason)
      }
    }))
})

describe("pseudonyms", () => {
  const both = `${mail}, joe@x.org, ${mail}, 10.0.0.1`

  it.effect("are the same for the same value, and only within a request", () =>
    Effect.gen(function*() {
      const pii = yield* Pii.make({ action: "pseudonymise" })
      const { context } = contextOf()
      const sent = yield* intercepted(pii, asking(both, `again ${mail}`), context)
      assert.strictEqual(textOf(sent.messages[0].content), "<EMAIL_1>, <EMAIL_2>, <EMAIL_1>, <IP_1>again <EMAIL_1>")
      const other = contextOf().context
      assert.strictEqual(
        textOf((yield* intercepted(pii, asking("joe@x.org"), other)).messages[0].content),
        "<EMAIL_1>"
      )
      const back = (context: typeof other) =>
        Effect.map(answered(pii, answering("To <EMAIL_1> and <EMAIL_2>, <EMAIL_3>"), sent, context), ({ content }) =>
          textOf(content))
      assert.strictEqual(yield* back(context), `To ${mail} and joe@x.org, <EMAIL_3>`)
      assert.strictEqual(yield* back(other), "To joe@x.org and <EMAIL_2>, <EMAIL_3>")
    }))

  it.effect("go there and back in every place that holds text", () =>
    Effect.gen(function*() {
      const pii = yield* Pii.make({ action: "pseudonymise" })
      const { context } = contextOf()
      const request = everywhere(mail)
      const sent = yield* intercepted(pii, request, context)
      assert.deepStrictEqual(sent, everywhere("<EMAIL_1>"))
      const [, , , assistant] = sent.messages
      const response = yield* answered(pii, answering(...assistant?.content ?? []), sent, context)
      assert.deepStrictEqual(response.content, request.messages[3]?.content)
    }))

  it.effect("are never ones that the request itself holds", () =>
    Effect.gen(function*() {
      const pii = yield* Pii.make({ action: "pseudonymise" })
      const { context } = contextOf()
      const sent = yield* intercepted(pii, asking(`What is <EMAIL_1>? Ask ${mail}`), context)
      assert.strictEqual(textOf(sent.messages[0].content), "What is <EMAIL_1>? Ask <EMAIL_2>")
      const response = yield* answered(pii, answering("<EMAIL_1> is a placeholder, says <EMAIL_2>"), sent, context)
      assert.strictEqual(textOf(response.content), `<EMAIL_1> is a placeholder, says ${mail}`)
    }))

  it.effect("need the request to be looked at", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* Effect.flip(Pii.make({ action: "pseudonymise", on: ["response"] }))).option, "on")
    }))
})
