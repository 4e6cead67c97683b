/**
 * A minute of steady load while every upstream is down: the whole gateway with its own way out, in process, against real
 * sockets, in virtual time. Once the breakers are open, the upstreams get hardly more calls than there are requests.
 */
import { assert, describe, it } from "@effect/vitest"
import { NodeServices } from "@effect/platform-node"
import { Effect, Exit, Layer, Logger, Result, Stream } from "effect"
import { TestClock } from "effect/testing"
import { setImmediate as nextTurn } from "node:timers/promises"
import * as ConfigFile from "../../src/config/ConfigFile.ts"
import * as GatewayLayer from "../../src/config/GatewayLayer.ts"
import { Gateway } from "../../src/gateway/Gateway.ts"
import { Breakers } from "../../src/sdk/Breakers.ts"
import type { ChatRequest } from "../../src/sdk/Chat.ts"
import { text } from "../../src/sdk/Content.ts"
import * as FakeUpstream from "../fixtures/FakeUpstream.ts"
import { fault, withFault } from "../fixtures/Fault.ts"
import { openAi } from "../fixtures/OpenAiWire.ts"
import { isJson, type Received, type Script } from "../fixtures/Script.ts"

const minute = 60_000
/** Requests arrive in groups: so many at once, every so many ms. */
const group = 4
const everyMs = 100

const layerOf = (urls: ReadonlyArray<string>) =>
  GatewayLayer.layer(Result.getOrThrow(ConfigFile.parse(
    `
providers:
${
      urls.map((url, index) =>
        `  p${index}: { type: openai, base_url: "${url}/v1", api_key: secret, unlisted_models: allow }\n`
      ).join("")
    }
defaults: { timeouts: { first_token: 3s, answer: 3s, total: 20s } }
`,
    "gateway.yaml",
    {}
  ))).pipe(Layer.provide(NodeServices.layer), Layer.provide(Logger.layer([])), Layer.orDie)

/** The number that a request carries, as the upstream sees it. */
const numberOf = ({ json }: Received): number => {
  const [message] = Array.isArray(json["messages"]) ? json["messages"].filter(isJson) : []
  return Number(message?.["content"])
}

/**
 * Lets the sockets have their say between two moments of virtual time: until the upstreams have nothing left to answer, and
 * nothing has happened for some turns of the loop.
 */
const quiet = (upstreams: ReadonlyArray<FakeUpstream.FakeUpstream>, done: () => number, waits: boolean) =>
  Effect.promise(async () => {
    const seen = () => done() + upstreams.reduce((sum, { requests }) => sum + requests.length, 0)
    let before = -1
    for (let calm = 0; calm < 10;) {
      await nextTurn()
      const now = seen()
      const busy = !waits && upstreams.some((upstream) => upstream.inFlight() > 0)
      calm = busy || now !== before ? 0 : calm + 1
      before = now
    }
  })

interface Outage {
  readonly script: Script
  readonly stream: boolean
  readonly strategy: "sequential" | "parallel"
  readonly providers: number
  /** Whether the upstreams leave calls without an answer. */
  readonly waits: boolean
}

/** Requests and calls after all breakers have opened for the first time. */
const outage = Effect.fnUntraced(function*({ providers, script, strategy, stream, waits }: Outage) {
  const upstreams = yield* Effect.forEach(Array.from({ length: providers }), () => FakeUpstream.make)
  for (const upstream of upstreams) upstream.always(script)
  return yield* Effect.gen(function*() {
    const gateway = yield* Gateway
    const breakers = yield* Breakers
    let asked = 0
    let failed = 0
    let firstAfterOpening: number | undefined
    const ask = Effect.suspend(() => {
      const request: ChatRequest = {
        model: "p0::m",
        messages: [{ role: "user", content: [text(String(asked++))] }],
        ...(providers === 1
          ? {}
          : { fallback: { models: upstreams.slice(1).map((_, index) => `p${index + 1}::m`), strategy } })
      }
      const answer = stream ? Stream.runDrain(gateway.streamChat(request)) : gateway.chat(request)
      return Effect.map(Effect.exit(answer), (exit) => {
        assert.isTrue(Exit.isFailure(exit), "every upstream is down")
        failed++
      })
    })
    for (let now = 0; now < minute; now += everyMs) {
      for (let at = 0; at < group; at++) yield* Effect.forkChild(ask, { startImmediately: true })
      yield* quiet(upstreams, () => failed, waits)
      yield* TestClock.adjust(everyMs)
      if (firstAfterOpening !== undefined) continue
      const tripped = (yield* breakers.states).filter(({ endpoint, state }) =>
        endpoint === "chat" && state !== "closed"
      )
      if (tripped.length === providers) firstAfterOpening = asked
    }
    for (let left = 0; left < 25_000; left += 1_000) {
      yield* quiet(upstreams, () => failed, waits)
      yield* TestClock.adjust(1_000)
    }
    yield* quiet(upstreams, () => failed, waits)
    assert.strictEqual(failed, asked, "every request is over")
    const first = firstAfterOpening ?? assert.fail("the breakers never opened")
    const calls = upstreams.flatMap((upstream) => upstream.requests).filter((call) => numberOf(call) >= first)
    return { requests: asked - first, calls: calls.length, asked }
  }).pipe(Effect.provide(layerOf(upstreams.map(({ url }) => url))))
})

const answer = openAi.answer({ text: "It works." })
const ways: ReadonlyArray<readonly [says: string, script: Script, waits: boolean]> = [
  ["errors", openAi.error(503), false],
  ["connections that break", withFault(answer, fault.reset), false],
  ["silence", withFault(answer, fault.hang), true]
]
const plans: ReadonlyArray<readonly [says: string, providers: number, strategy: Outage["strategy"]]> = [
  ["one model", 1, "sequential"],
  ["three models, one after another", 3, "sequential"],
  ["three models, hedged", 3, "parallel"]
]

describe.each(ways)("a minute of %s", (_, script, waits) => {
  for (const [says, providers, strategy] of plans) {
    for (const stream of [false, true]) {
      it.effect(
        `${stream ? "streamed" : "whole"}, ${says}: calls stay within 1.1 times the requests`,
        () =>
          Effect.gen(function*() {
            const { asked, calls, requests } = yield* outage({ script, stream, strategy, providers, waits })
            assert.strictEqual(asked, group * minute / everyMs)
            // Most of the minute, or the figure would say little.
            assert.isAtLeast(requests, 0.8 * asked)
            assert.isAtLeast(calls, 1)
            assert.isAtMost(calls, 1.1 * requests)
          }),
        60_000
      )
    }
  }
})
