/**
 * A governed gateway in one file: a tenant with a rate limit and a budget, a usage sink and an audit sink of one's own.
 * All of it is kept in memory. Run it with `npx node scratchpad/06-governed-gateway.ts`.
 */
import { Console, Effect, Layer } from "effect"
import {
  Audit,
  AuditSink,
  AuditSinkRegistry,
  BudgetsMemory,
  type Caller,
  Content,
  CurrentCaller,
  Gateway,
  ModelRegistry,
  ModelRegistryLayer,
  OutboundUndici,
  RateLimitsMemory,
  Registries,
  Sandbox,
  Tenants,
  TypeRegistry,
  UsageSink
} from "../src/index.ts"

/**
 * A usage sink is a name and a function that writes a batch. It fails with `UsageSink.SinkError` where it could not, and
 * gets the same batch again. It says that it is durable, so that strict durability waits for it before an answer ends.
 */
const PrintUsage = UsageSink.layer({
  name: "print",
  durable: true,
  write: (records) =>
    Effect.forEach(
      records,
      ({ costNanoUsd, modelUsed, outcome, tenant, user }) =>
        Console.log(`usage: ${tenant}/${user} ${modelUsed ?? "no model"} ${outcome} ${costNanoUsd ?? 0} nano-USD`),
      {
        discard: true
      }
    )
})

const trail: Array<AuditSink.AuditEvent> = []

/** An audit sink is the same for events. They are written in the background, and no answer waits for them. */
const KeepAudit = AuditSink.layer({ name: "keep", write: (events) => Effect.sync(() => void trail.push(...events)) })

const Policies = Tenants.layer([{
  name: "acme",
  rateLimits: [{ kind: "requests", per: "user", limit: 3, windowMs: 3_600_000 }],
  // 0.001 USD a day for each user, in nano-USD.
  budgets: [{ per: "user", limitNanoUsd: 1_000_000, window: "day" }],
  interceptors: []
}])

const Governance = Layer.mergeAll(Audit.layer, RateLimitsMemory.layer(), BudgetsMemory.layer()).pipe(
  Layer.provideMerge(Layer.mergeAll(KeepAudit, PrintUsage)),
  Layer.provideMerge(Layer.mergeAll(AuditSinkRegistry.layer, Policies))
)

const AppGateway = Gateway.layer({
  ledger: { durability: "strict" },
  budgets: { timeZone: "Europe/Berlin" }
}).pipe(
  Layer.provideMerge(ModelRegistryLayer.layer()),
  Layer.provideMerge(Layer.mergeAll(Sandbox.layer(), Governance)),
  Layer.provideMerge(Layer.mergeAll(Registries.layer, OutboundUndici.layer, TypeRegistry.layerEmpty))
)

/** Who asks. A server would find this out from a key or a token. */
const ann: Caller = { tenant: "acme", user: "ann", tags: [] }

const ask = Effect.fnUntraced(function*(maxOutputTokens?: number) {
  const gateway = yield* Gateway
  const said = yield* gateway.chat({
    model: "sandbox::echo",
    messages: [{ role: "user", content: [Content.text("Hello, gateway!")] }],
    ...(maxOutputTokens === undefined ? {} : { maxOutputTokens })
  }).pipe(
    Effect.map(({ content }) => Content.textOf(content)),
    // Two of the reasons for which a gateway refuses, each with what there is to know of it.
    Effect.catchReasons("GatewayError", {
      BudgetExceeded: ({ budget, code }) => Effect.succeed(`${code}: the ${budget} cannot pay for this request`),
      RateLimited: ({ code, limit }) => Effect.succeed(`${code}: ${limit?.limit} ${limit?.name}`)
    })
  )
  yield* Console.log(said)
})

const program = Effect.gen(function*() {
  // A budget pays for no model whose price is not known, and the sandbox tells its prices when it is asked for its models.
  yield* Effect.flatMap(ModelRegistry, (registry) => registry.refresh)
  yield* ask(100)
  // Without a limit of its length an answer may have 128,000 tokens, for which the budget has too little.
  yield* ask()
  yield* ask(100)
  yield* ask(100)
  const gateway = yield* Gateway
  for (const { account, reservedNanoUsd, spentNanoUsd } of yield* gateway.budgets) {
    yield* Console.log(`${account.name}: ${spentNanoUsd} nano-USD spent, ${reservedNanoUsd} reserved`)
  }
  yield* Effect.flatMap(Audit.AuditQueues, (queues) => queues.flush)
  for (const { details, type } of trail) yield* Console.log(`audit: ${type} ${details["code"] ?? ""}`.trimEnd())
}).pipe(Effect.provideService(CurrentCaller, ann))

await Effect.runPromise(Effect.provide(program, AppGateway))
