import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Layer, Logger, Ref, Scope } from "effect"
import { TestClock } from "effect/testing"
import { compilePatterns } from "../../../src/modules/modelRegistry/ModelPattern.ts"
import * as Registry from "../../../src/modules/modelRegistry/Registry.ts"
import type { Caller } from "../../../src/sdk/Caller.ts"
import type { GatewayErrorReason } from "../../../src/sdk/GatewayError.ts"
import { ModelRegistry } from "../../../src/sdk/ModelRegistry.ts"
import { type DiscoveredModel, type Provider, ProviderError, ProviderRegistry } from "../../../src/sdk/Provider.ts"

const caller: Caller = { tenant: "acme", tags: [] }

/** Settled times: o3 and others have had their price since long before. */
const today = Date.parse("2026-11-22T12:00:00Z")

const provider = (slug: string, rest: Partial<Provider> = {}): Provider => ({
  slug,
  kind: "openai",
  wire: "openai",
  baseUrl: `http://${slug}.test/v1`,
  ...rest
})

const openai = provider("openai", { baseUrl: "https://api.openai.com/v1" })
const anthropic = provider("anthropic", { kind: "anthropic", baseUrl: "https://api.anthropic.com" })

const lists = (...models: ReadonlyArray<string>): Effect.Effect<ReadonlyArray<DiscoveredModel>> =>
  Effect.succeed(models.map((model) => ({ model })))

const refused = new ProviderError({ provider: "any", kind: "transient", message: "connection refused" })

/** Runs against a registry over these providers, at a known time, with the first round of discovery done. */
const withRegistry = <A, E>(
  providers: ReadonlyArray<Provider>,
  options: Registry.ModelRegistryOptions,
  use: (registry: ModelRegistry["Service"], providers: ProviderRegistry["Service"]) => Effect.Effect<A, E, Scope.Scope>
): Effect.Effect<A, unknown, Scope.Scope> =>
  Effect.gen(function*() {
    const registered = yield* ProviderRegistry
    for (const one of providers) yield* registered.register(one)
    const registry = yield* ModelRegistry
    yield* TestClock.adjust(1)
    return yield* use(registry, registered)
  }).pipe(
    Effect.provide(Registry.layer(options).pipe(Layer.provideMerge(Layer.fresh(ProviderRegistry.layer)))),
    // Before the Layer is built, or its timers would have half a century to make up for.
    (effect) => Effect.andThen(TestClock.setTime(today), effect)
  )

const refusal = (
  registry: ModelRegistry["Service"],
  id: string,
  who: Caller = caller
): Effect.Effect<GatewayErrorReason, unknown> =>
  Effect.map(Effect.flip(registry.resolve(id, who)), (error) => error.reason)

const ids = (registry: ModelRegistry["Service"], who: Caller = caller) =>
  Effect.map(registry.list(who), (models) => models.map((model) => model.id))

describe("resolve", () => {
  it.effect("gives a catalogue model its prices, limits and capabilities", () =>
    withRegistry([openai], {}, (registry) =>
      Effect.gen(function*() {
        const info = yield* registry.resolve("openai::gpt-4o-2024-11-20", caller)
        assert.strictEqual(info.id, "openai::gpt-4o-2024-11-20")
        assert.strictEqual(info.provider, "openai")
        assert.strictEqual(info.model, "gpt-4o-2024-11-20")
        assert.strictEqual(info.prices?.inputMtok, 2.5)
        assert.strictEqual(info.maxOutputTokens, 16384)
        assert.strictEqual(info.status, "active")
        assert.include(info.capabilities ?? [], "tools")
      })))

  it.effect("gives the same value again without working it out anew", () =>
    withRegistry([openai], {}, (registry) =>
      Effect.gen(function*() {
        const first = yield* registry.resolve("openai::gpt-4o", caller)
        assert.strictEqual(yield* registry.resolve("openai::gpt-4o", caller), first)
      })))

  it.effect("splits the id at its first separator", () =>
    withRegistry([provider("local", { unlistedModels: "allow" })], {}, (registry) =>
      Effect.gen(function*() {
        const info = yield* registry.resolve("local::org::model", caller)
        assert.strictEqual(info.model, "org::model")
      })))

  it.effect("names the providers where there is none of that slug", () =>
    withRegistry([openai, anthropic], {}, (registry) =>
      Effect.gen(function*() {
        const reason = yield* refusal(registry, "opnai::gpt-4o")
        assert.strictEqual(reason._tag, "ModelNotFound")
        assert.include(reason.message, "\"opnai\"")
        assert.include(reason.message, "openai, anthropic")
      })))

  it.effect("refuses an id without a model, an empty one, and a huge one, with a short message", () =>
    withRegistry([provider("local", { unlistedModels: "allow" })], {}, (registry) =>
      Effect.gen(function*() {
        for (const id of ["local::", "", "::", `local::${"x".repeat(100_000)}`, "x".repeat(100_000)]) {
          const reason = yield* refusal(registry, id)
          assert.strictEqual(reason._tag, "ModelNotFound")
          assert.isBelow(reason.message.length, 500)
        }
      })))

  it.effect("changes a price at its date while the gateway runs", () =>
    withRegistry([openai], {}, (registry) =>
      Effect.gen(function*() {
        yield* TestClock.setTime(Date.parse("2025-06-09T23:00:00Z"))
        assert.strictEqual((yield* registry.resolve("openai::o3", caller)).prices?.inputMtok, 10)
        yield* TestClock.adjust("1 hour")
        assert.strictEqual((yield* registry.resolve("openai::o3", caller)).prices?.inputMtok, 2)
      })))
})

describe("unlisted models", () => {
  const broken = Effect.fail(refused)
  const cases: ReadonlyArray<{
    readonly title: string
    readonly rest: Partial<Provider>
    readonly allowed: boolean
  }> = [
    { title: "are allowed where the provider has no discovery", rest: {}, allowed: true },
    { title: "are allowed where discovery only failed", rest: { discover: broken }, allowed: true },
    { title: "are allowed before discovery has answered", rest: { discover: Effect.never }, allowed: true },
    { title: "are denied once discovery has answered", rest: { discover: lists("a") }, allowed: false },
    {
      title: "are allowed after discovery where the provider says so",
      rest: { discover: lists("a"), unlistedModels: "allow" },
      allowed: true
    },
    { title: "are denied where the provider says so", rest: { unlistedModels: "deny" }, allowed: false },
    {
      title: "are denied before discovery where the provider says so",
      rest: { discover: Effect.never, unlistedModels: "deny" },
      allowed: false
    }
  ]
  for (const { allowed, rest, title } of cases) {
    it.effect(title, () =>
      withRegistry([provider("local", rest)], {}, (registry) =>
        Effect.gen(function*() {
          if (allowed) {
            const info = yield* registry.resolve("local::unheard-of", caller)
            assert.deepStrictEqual(info, {
              id: "local::unheard-of",
              provider: "local",
              model: "unheard-of",
              status: "active"
            })
          } else {
            assert.strictEqual((yield* refusal(registry, "local::unheard-of"))._tag, "ModelNotFound")
          }
        })))
  }

  it.effect("can do what their provider says that its models can", () =>
    withRegistry(
      [provider("local", { defaultCapabilities: ["text_input", "tools"] })],
      {},
      (registry) =>
        Effect.gen(function*() {
          const info = yield* registry.resolve("local::unheard-of", caller)
          assert.deepStrictEqual(info.capabilities, ["text_input", "tools"])
        })
    ))

  it.effect("are not needed for what configuration or the catalogue knows", () =>
    withRegistry(
      [provider("local", { unlistedModels: "deny" }), { ...openai, unlistedModels: "deny", discover: lists("gpt-4o") }],
      { models: [{ id: "local::mine" }] },
      (registry) =>
        Effect.gen(function*() {
          assert.strictEqual((yield* registry.resolve("local::mine", caller)).model, "mine")
          assert.strictEqual((yield* registry.resolve("openai::gpt-4.1", caller)).model, "gpt-4.1")
        })
    ))

  it.effect("are suggested a few names that resemble them, and no others", () =>
    withRegistry(
      [provider("local", { discover: lists("llama-3.1-8b", "llama-3.1-70b", "mistral-7b") })],
      {},
      (registry) =>
        Effect.gen(function*() {
          const reason = yield* refusal(registry, "local::llama-3.1")
          assert.include(reason.message, "local::llama-3.1-70b, local::llama-3.1-8b")
          assert.notInclude(reason.message, "mistral")
        })
    ))
})

describe("bare ids", () => {
  it.effect("mean the one provider that lists them", () =>
    withRegistry(
      [provider("a", { discover: lists("one") }), provider("b", { discover: lists("two") })],
      { models: [{ id: "b::three" }] },
      (registry) =>
        Effect.gen(function*() {
          assert.strictEqual((yield* registry.resolve("one", caller)).id, "a::one")
          assert.strictEqual((yield* registry.resolve("three", caller)).id, "b::three")
        })
    ))

  it.effect("mean the one vendor whose catalogue has them", () =>
    withRegistry([openai, anthropic], {}, (registry) =>
      Effect.gen(function*() {
        assert.strictEqual((yield* registry.resolve("claude-haiku-4-5", caller)).id, "anthropic::claude-haiku-4-5")
        assert.strictEqual((yield* registry.resolve("gpt-4o", caller)).id, "openai::gpt-4o")
      })))

  it.effect("of several providers are refused with the candidates", () =>
    withRegistry(
      [openai, provider("azure-eu", { discover: lists("gpt-4o") })],
      {},
      (registry) =>
        Effect.gen(function*() {
          const reason = yield* refusal(registry, "gpt-4o")
          assert.strictEqual(reason._tag, "ModelNotFound")
          assert.deepStrictEqual(reason._tag === "ModelNotFound" ? reason.candidates : [], [
            "openai::gpt-4o",
            "azure-eu::gpt-4o"
          ])
          assert.include(reason.message, "offered by several providers; say which: openai::gpt-4o, azure-eu::gpt-4o")
        })
    ))

  it.effect("of several providers mean the one that the tenant may use", () =>
    withRegistry([openai, provider("azure-eu", { discover: lists("gpt-4o") })], {
      approvals: () => compilePatterns(["azure-eu::*"])
    }, (registry) =>
      Effect.gen(function*() {
        assert.strictEqual((yield* registry.resolve("gpt-4o", caller)).id, "azure-eu::gpt-4o")
      })))

  it.effect("are never guessed to be the one provider that takes anything", () =>
    withRegistry([provider("local", { unlistedModels: "allow" })], {}, (registry) =>
      Effect.gen(function*() {
        assert.strictEqual((yield* refusal(registry, "unheard-of"))._tag, "ModelNotFound")
      })))

  it.effect("may hold a separator, as fine-tunes do", () =>
    withRegistry([provider("a", { discover: lists("ft:gpt-4o:org::id") })], {}, (registry) =>
      Effect.gen(function*() {
        assert.strictEqual((yield* registry.resolve("ft:gpt-4o:org::id", caller)).id, "a::ft:gpt-4o:org::id")
      })))
})

describe("precedence", () => {
  it.effect("is catalogue, then discovery, then configuration, field by field", () =>
    withRegistry(
      [{
        ...openai,
        discover: Effect.succeed([{
          model: "gpt-4o",
          displayName: "GPT-4o",
          contextWindow: 100_000,
          maxOutputTokens: 9000,
          created: 1_715_367_049
        }])
      }],
      { models: [{ id: "openai::gpt-4o", maxOutputTokens: 5000, prices: { inputMtok: 1, outputMtok: 2 } }] },
      (registry) =>
        Effect.gen(function*() {
          const info = yield* registry.resolve("openai::gpt-4o", caller)
          assert.strictEqual(info.displayName, "GPT-4o")
          assert.strictEqual(info.contextWindow, 100_000)
          assert.strictEqual(info.maxOutputTokens, 5000)
          assert.deepStrictEqual(info.prices, { inputMtok: 1, outputMtok: 2 })
          assert.include(info.capabilities ?? [], "image_input")
          assert.strictEqual(info.created, 1_715_367_049)
        })
    ))

  it.effect("of the catalogue's capabilities is above the provider's defaults, and below discovery's", () =>
    withRegistry(
      [{
        ...openai,
        defaultCapabilities: ["text_input"],
        discover: Effect.succeed([{ model: "gpt-4.1", capabilities: ["text_output"] as const }])
      }],
      {},
      (registry) =>
        Effect.gen(function*() {
          assert.include((yield* registry.resolve("openai::gpt-4o", caller)).capabilities ?? [], "tools")
          assert.deepStrictEqual((yield* registry.resolve("openai::gpt-4.1", caller)).capabilities, ["text_output"])
        })
    ))

  it.effect("drops limits of a discovered model that are none", () =>
    withRegistry(
      [provider("a", { discover: Effect.succeed([{ model: "m", contextWindow: 0, maxOutputTokens: Number.NaN }]) })],
      {},
      (registry) =>
        Effect.gen(function*() {
          assert.deepStrictEqual(yield* registry.resolve("a::m", caller), {
            id: "a::m",
            provider: "a",
            model: "m",
            status: "active"
          })
        })
    ))

  it.effect("refuses what configuration calls deprecated, and lists it as such", () =>
    withRegistry(
      [openai],
      { models: [{ id: "openai::gpt-4", status: "deprecated" }] },
      (registry) =>
        Effect.gen(function*() {
          const reason = yield* refusal(registry, "openai::gpt-4")
          assert.strictEqual(reason._tag, "ModelDeprecated")
          assert.strictEqual(reason.status, 410)
          assert.deepStrictEqual((yield* registry.list(caller)).map((model) => [model.id, model.status]), [
            ["openai::gpt-4", "deprecated"]
          ])
        })
    ))
})

describe("Ollama", () => {
  const ollama = provider("ollama", { kind: "ollama", wire: "ollama", discover: lists("llama3:latest", "llama3.2:3b") })

  it.effect("reads a name without a tag as the latest", () =>
    withRegistry(
      [ollama],
      { models: [{ id: "ollama::llama3", contextWindow: 8192 }] },
      (registry) =>
        Effect.gen(function*() {
          const short = yield* registry.resolve("ollama::llama3", caller)
          const long = yield* registry.resolve("ollama::llama3:latest", caller)
          assert.strictEqual(short.id, "ollama::llama3:latest")
          assert.strictEqual(short.contextWindow, 8192)
          assert.deepStrictEqual(short, long)
          assert.strictEqual((yield* registry.resolve("llama3", caller)).id, "ollama::llama3:latest")
          assert.strictEqual((yield* registry.resolve("llama3.2:3b", caller)).id, "ollama::llama3.2:3b")
          assert.strictEqual((yield* refusal(registry, "ollama::llama3.2"))._tag, "ModelNotFound")
          assert.deepStrictEqual(yield* ids(registry), ["ollama::llama3.2:3b", "ollama::llama3:latest"])
        })
    ))

  it.effect("finds no tag in the port of a registry", () =>
    withRegistry(
      [provider("ollama", { kind: "ollama", discover: lists("host:5000/team/model:latest") })],
      {},
      (registry) =>
        Effect.gen(function*() {
          const info = yield* registry.resolve("ollama::host:5000/team/model", caller)
          assert.strictEqual(info.model, "host:5000/team/model:latest")
        })
    ))

  it.effect("is approved in either spelling", () =>
    withRegistry(
      [ollama],
      { approvals: () => compilePatterns(["ollama::llama3"]) },
      (registry) =>
        Effect.gen(function*() {
          assert.strictEqual((yield* registry.resolve("ollama::llama3:latest", caller)).model, "llama3:latest")
          assert.strictEqual((yield* refusal(registry, "ollama::llama3.2:3b"))._tag, "ModelNotApproved")
        })
    ))

  it.effect("has no price unless configuration says one", () =>
    withRegistry(
      [ollama],
      { models: [{ id: "ollama::llama3.2:3b", prices: { inputMtok: 0, outputMtok: 0 } }] },
      (registry) =>
        Effect.gen(function*() {
          assert.isUndefined((yield* registry.resolve("ollama::llama3", caller)).prices)
          assert.deepStrictEqual((yield* registry.resolve("ollama::llama3.2:3b", caller)).prices, {
            inputMtok: 0,
            outputMtok: 0
          })
        })
    ))
})

describe("approvals", () => {
  const approvals = (who: Caller) =>
    who.tenant === "acme" ? compilePatterns(["openai::*", "anthropic::claude-*"]) : undefined
  const setup = [
    { ...openai, discover: lists("gpt-4o", "gpt-4.1") },
    { ...anthropic, discover: lists("claude-haiku-4-5", "other-haiku") }
  ]

  it.effect("refuse a model that exists, and only such a one, as not approved", () =>
    withRegistry(setup, { approvals }, (registry) =>
      Effect.gen(function*() {
        assert.strictEqual((yield* registry.resolve("openai::gpt-4o", caller)).model, "gpt-4o")
        const reason = yield* refusal(registry, "anthropic::other-haiku")
        assert.strictEqual(reason._tag, "ModelNotApproved")
        assert.strictEqual(reason.status, 403)
        assert.strictEqual((yield* refusal(registry, "other-haiku"))._tag, "ModelNotApproved")
        assert.strictEqual((yield* refusal(registry, "anthropic::nothing"))._tag, "ModelNotFound")
      })))

  it.effect("filter the list, each caller by its own", () =>
    withRegistry(setup, { approvals }, (registry) =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* ids(registry), [
          "anthropic::claude-haiku-4-5",
          "openai::gpt-4.1",
          "openai::gpt-4o"
        ])
        assert.include(yield* ids(registry, { tenant: "other", tags: [] }), "anthropic::other-haiku")
      })))

  it.effect("keep other models' names out of refusals", () =>
    withRegistry(setup, { approvals }, (registry) =>
      Effect.gen(function*() {
        const reason = yield* refusal(registry, "anthropic::haiku")
        assert.include(reason.message, "anthropic::claude-haiku-4-5")
        assert.notInclude(reason.message, "other-haiku")
      })))
})

describe("list", () => {
  it.effect("has what is configured and discovered, and not the whole catalogue", () =>
    withRegistry([openai, provider("a", { discover: lists("y", "x", "y", "") })], {
      models: [{ id: "openai::gpt-4o" }, { id: "gone::model" }, { id: "no-slug" }]
    }, (registry) =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* ids(registry), ["a::x", "a::y", "openai::gpt-4o"])
        assert.isDefined((yield* registry.list(caller))[2]?.prices)
      })))
})

describe("discovery", () => {
  it.effect("does not delay the start, and is given up after its timeout", () =>
    Effect.gen(function*() {
      const interrupted = yield* Ref.make(false)
      const slow = provider("slow", { discover: Effect.onInterrupt(Effect.never, () => Ref.set(interrupted, true)) })
      yield* withRegistry([slow], { discovery: { timeout: 3000 } }, (registry) =>
        Effect.gen(function*() {
          assert.deepStrictEqual(yield* ids(registry), [])
          yield* TestClock.adjust("2900 millis")
          assert.isFalse(yield* Ref.get(interrupted))
          yield* TestClock.adjust("200 millis")
          assert.isTrue(yield* Ref.get(interrupted))
        }))
    }))

  it.effect("is repeated at the provider's own pace", () =>
    Effect.gen(function*() {
      const asked = yield* Ref.make({ fast: 0, normal: 0 })
      const counts = (name: "fast" | "normal") =>
        Ref.update(asked, (counts) => ({ ...counts, [name]: counts[name] + 1 })).pipe(Effect.andThen(lists("m")))
      yield* withRegistry(
        [
          provider("fast", { discover: counts("fast"), discoveryInterval: 10_000 }),
          provider("normal", { discover: counts("normal") })
        ],
        {},
        () =>
          Effect.gen(function*() {
            assert.deepStrictEqual(yield* Ref.get(asked), { fast: 1, normal: 1 })
            // Within a fifth of 10 s there is exactly one more; after five minutes and a fifth, one of the slow ones.
            yield* TestClock.adjust("7 seconds")
            assert.strictEqual((yield* Ref.get(asked)).fast, 1)
            yield* TestClock.adjust("6 seconds")
            assert.strictEqual((yield* Ref.get(asked)).fast, 2)
            yield* TestClock.adjust("220 seconds")
            assert.strictEqual((yield* Ref.get(asked)).normal, 1)
            yield* TestClock.adjust("130 seconds")
            assert.strictEqual((yield* Ref.get(asked)).normal, 2)
          })
      )
    }))

  it.effect("keeps the last list through failures, takes the new one after, and logs each change once", () =>
    Effect.gen(function*() {
      const answer = yield* Ref.make<Effect.Effect<ReadonlyArray<DiscoveredModel>, ProviderError>>(lists("old"))
      const messages: Array<string> = []
      const logger = Logger.make((options) => {
        messages.push(`${options.logLevel} ${JSON.stringify(options.message)}`)
      })
      const flaky = provider("flaky", { discover: Effect.flatten(Ref.get(answer)), discoveryInterval: 10_000 })
      yield* withRegistry([flaky], {}, (registry) =>
        Effect.gen(function*() {
          assert.deepStrictEqual(yield* ids(registry), ["flaky::old"])
          yield* Ref.set(answer, Effect.fail(refused))
          yield* TestClock.adjust("60 seconds")
          assert.deepStrictEqual(yield* ids(registry), ["flaky::old"])
          assert.strictEqual((yield* refusal(registry, "flaky::new"))._tag, "ModelNotFound")
          yield* Ref.set(answer, Effect.die(new TypeError("secret-in-a-bug")))
          yield* TestClock.adjust("60 seconds")
          yield* Ref.set(answer, lists("new"))
          yield* TestClock.adjust("15 seconds")
          assert.deepStrictEqual(yield* ids(registry), ["flaky::new"])
          assert.strictEqual((yield* registry.resolve("flaky::new", caller)).model, "new")
        })).pipe(Effect.provide(Logger.layer([logger])))
      assert.strictEqual(messages.length, 2, messages.join("\n"))
      assert.include(messages[0], "Warn")
      assert.include(messages[0], "connection refused")
      assert.include(messages[1], "works again")
    }))

  it.effect("survives a provider that dies, and says nothing of its words", () =>
    Effect.gen(function*() {
      const messages: Array<string> = []
      const logger = Logger.make((options) => {
        messages.push(JSON.stringify(options.message))
      })
      const buggy = provider("buggy", { discover: Effect.die(new TypeError("secret-in-a-bug")) })
      yield* withRegistry([buggy, provider("well", { discover: lists("m") })], {}, (registry) =>
        Effect.gen(function*() {
          assert.deepStrictEqual(yield* ids(registry), ["well::m"])
        })).pipe(Effect.provide(Logger.layer([logger])))
      assert.strictEqual(messages.length, 1)
      assert.include(messages[0], "TypeError")
      assert.notInclude(messages[0], "secret-in-a-bug")
    }))

  it.effect("picks up a provider that is registered later, and forgets one whose scope closes", () =>
    withRegistry([openai], {}, (registry, providers) =>
      Effect.gen(function*() {
        const asked = yield* Ref.make(0)
        const late = provider("late", {
          discover: Effect.andThen(Ref.update(asked, (n) => n + 1), lists("m")),
          discoveryInterval: 5000
        })
        const scope = yield* Scope.make()
        yield* providers.register(late).pipe(Scope.provide(scope))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* ids(registry), ["late::m"])
        assert.strictEqual((yield* registry.resolve("m", caller)).id, "late::m")

        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(yield* ids(registry), [])
        assert.include((yield* refusal(registry, "late::m")).message, "there is no provider \"late\"")
        assert.strictEqual((yield* refusal(registry, "m"))._tag, "ModelNotFound")
        yield* TestClock.adjust("1 second")
        const before = yield* Ref.get(asked)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* Ref.get(asked), before)
      })))

  it.effect("starts afresh for a provider that is swapped for another of the same slug", () =>
    withRegistry([], {}, (registry, providers) =>
      Effect.gen(function*() {
        const first = yield* Scope.make()
        yield* providers.register(provider("a", { discover: lists("old") })).pipe(Scope.provide(first))
        yield* registry.refresh
        assert.deepStrictEqual(yield* ids(registry), ["a::old"])
        yield* Scope.close(first, Exit.void)
        yield* providers.register(provider("a", { discover: Effect.never }))
        assert.deepStrictEqual(yield* ids(registry), [])
        assert.strictEqual((yield* registry.resolve("a::anything", caller)).model, "anything")
      })))

  it.effect("ends with the registry's scope", () =>
    Effect.gen(function*() {
      const asked = yield* Ref.make(0)
      const one = provider("a", {
        discover: Effect.andThen(Ref.update(asked, (n) => n + 1), lists("m")),
        discoveryInterval: 5000
      })
      yield* Effect.scoped(withRegistry([one], {}, () => TestClock.adjust("1 second")))
      const before = yield* Ref.get(asked)
      assert.strictEqual(before, 1)
      yield* TestClock.adjust("10 minutes")
      assert.strictEqual(yield* Ref.get(asked), before)
    }))
})

describe("refresh", () => {
  it.effect("asks all providers at once, waits for all, and does not mind failures", () =>
    Effect.gen(function*() {
      const models = yield* Ref.make<ReadonlyArray<string>>([])
      const slowly = Effect.andThen(Effect.sleep(1000), Effect.flatMap(Ref.get(models), (names) => lists(...names)))
      yield* withRegistry(
        [
          provider("a", { discover: slowly }),
          provider("b", { discover: slowly }),
          provider("c", { discover: Effect.fail(refused) }),
          openai
        ],
        {},
        (registry) =>
          Effect.gen(function*() {
            yield* TestClock.adjust("2 seconds")
            assert.deepStrictEqual(yield* ids(registry), [])
            yield* Ref.set(models, ["m"])
            const done = yield* Ref.make(false)
            yield* registry.refresh.pipe(Effect.andThen(Ref.set(done, true)), Effect.forkChild)
            yield* TestClock.adjust("900 millis")
            assert.isFalse(yield* Ref.get(done))
            yield* TestClock.adjust("200 millis")
            assert.isTrue(yield* Ref.get(done))
            assert.deepStrictEqual(yield* ids(registry), ["a::m", "b::m"])
          })
      )
    }))

  it.effect("is not undone by an older question's late answer", () =>
    Effect.gen(function*() {
      const calls = yield* Ref.make(0)
      const discover = Effect.flatMap(Ref.updateAndGet(calls, (n) => n + 1), (n) =>
        n === 1 ? Effect.andThen(Effect.sleep(5000), lists("stale")) : lists("fresh"))
      yield* withRegistry([provider("a", { discover })], {}, (registry) =>
        Effect.gen(function*() {
          yield* registry.refresh
          assert.deepStrictEqual(yield* ids(registry), ["a::fresh"])
          yield* TestClock.adjust("6 seconds")
          assert.deepStrictEqual(yield* ids(registry), ["a::fresh"])
        }))
    }))
})
