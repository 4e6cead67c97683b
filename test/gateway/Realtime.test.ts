/** Realtime sessions in process, with the sandbox at the far end. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Stream } from "effect"
import { TestClock } from "effect/testing"
import {
  CurrentCaller,
  Gateway,
  ModelRegistryLayer,
  type Realtime,
  Registries,
  Sandbox,
  TypeRegistry,
  type UsageSink,
  UsageSinkRegistry
} from "../../src/index.ts"
import * as OutboundUndici from "../../src/modules/outbound/OutboundUndici.ts"

const compose = (records: Array<UsageSink.UsageRecord>) =>
  Gateway.layer({ ledger: { durability: "strict" } }).pipe(
    Layer.provideMerge(ModelRegistryLayer.layer()),
    Layer.provideMerge(Layer.mergeAll(
      Sandbox.layer(),
      Layer.effectDiscard(Effect.flatMap(UsageSinkRegistry, (sinks) =>
        sinks.register({
          name: "kept",
          durable: true,
          write: (batch) => Effect.sync(() => void records.push(...batch))
        })))
    )),
    Layer.provideMerge(Layer.mergeAll(Registries.layer, OutboundUndici.layer, TypeRegistry.layerEmpty))
  )

const decoder = new TextDecoder()
const encoder = new TextEncoder()
const frame = (event: object): Realtime.RealtimeFrame => ({
  data: encoder.encode(JSON.stringify(event)),
  isText: true
})
const eventOf = ({ data }: Realtime.RealtimeFrame): Record<string, unknown> => JSON.parse(decoder.decode(data))
const typeOf = (heard: Realtime.RealtimeFrame): string => String(eventOf(heard)["type"])

describe("Gateway.realtime", () => {
  it.effect("answers when the caller has fallen silent, and writes down what it took", () => {
    const records: Array<UsageSink.UsageRecord> = []
    return Effect.gen(function*() {
      const gateway = yield* Gateway
      const session = yield* gateway.realtime({ model: "sandbox::realtime" })
      const heard: Array<Realtime.RealtimeFrame> = []
      const done = yield* Effect.forkChild(
        session.frames.pipe(
          Stream.takeUntil((one) => typeOf(one) === "response.done"),
          Stream.runForEach((one) => Effect.sync(() => void heard.push(one)))
        ),
        { startImmediately: true }
      )
      const sound = Buffer.alloc(4_800, 1).toString("base64")
      yield* session.send(frame({ type: "input_audio_buffer.append", audio: sound }))
      yield* Effect.yieldNow
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(done)
      const said = heard.map(eventOf).find(({ type }) => type === "response.output_audio.delta")
      assert.strictEqual(said?.["delta"], sound)
      yield* session.close({ code: 1000, reason: "" })
      assert.deepStrictEqual(yield* session.closed, { code: 1000, reason: "" })
    }).pipe(
      Effect.scoped,
      Effect.andThen(Effect.sync(() => {
        assert.sameDeepMembers(
          records.map(({ conversationId, operation, outcome, usage }) => [
            operation,
            outcome,
            conversationId === undefined,
            (usage.inputAudioTokens ?? 0) + (usage.outputAudioTokens ?? 0)
          ]),
          // The transcript, the response, and the session itself.
          [["realtime", "completed", false, 1], ["realtime", "completed", false, 3], ["realtime", "completed", true, 0]]
        )
      })),
      Effect.provideService(CurrentCaller, { tenant: "acme", tags: [] }),
      Effect.provide(compose(records))
    )
  })

  it.effect("makes the provider wait while nobody pulls, and loses nothing", () =>
    Effect.gen(function*() {
      const gateway = yield* Gateway
      const session = yield* gateway.realtime({ model: "sandbox::realtime" })
      const turns = 400
      for (let turn = 0; turn < turns; turn++) yield* session.send(frame({ type: "unknown", turn }))
      const heard = yield* Stream.runCollect(Stream.take(session.frames, turns + 1))
      assert.deepStrictEqual(Array.from(new Set(Array.from(heard, typeOf))), ["session.created", "error"])
    }).pipe(Effect.scoped, Effect.provide(compose([]))))

  it.effect("fails as any request does where there is no session to be had", () =>
    Effect.gen(function*() {
      const gateway = yield* Gateway
      const error = yield* Effect.flip(gateway.realtime({ model: "nobody::has-it" }))
      assert.strictEqual(error.code, "model_not_found")
    }).pipe(Effect.scoped, Effect.provide(compose([]))))
})
