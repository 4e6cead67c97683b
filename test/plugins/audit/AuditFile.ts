/** An audit file as a gateway uses it, for tests and for the processes that they start. */
import { Context, Effect, Layer, type Scope } from "effect"
import * as AuditJsonl from "../../../src/plugins/audit/jsonl/AuditJsonl.ts"
import { type AuditEvent, type AuditSink, AuditSinkRegistry } from "../../../src/sdk/AuditSink.ts"

/** An event with a number to know it by. */
export const event = (number: number, filling = ""): AuditEvent => ({
  type: "request_completed",
  at: 1_700_000_000_000 + number,
  requestId: `req_${number}`,
  tenant: "acme",
  user: "ann",
  keyId: "key-1",
  details: { modelUsed: "openai::gpt-4o", number, streamed: true, filling }
})

/** The sink of a file, for as long as the scope lives. */
export const openSink = (
  options: AuditJsonl.AuditJsonlOptions
): Effect.Effect<AuditSink, AuditJsonl.AuditFileError, Scope.Scope> =>
  Effect.map(
    Layer.build(Layer.provideMerge(AuditJsonl.layer(options), Layer.fresh(AuditSinkRegistry.layer))),
    (context) => {
      const [sink] = Context.get(context, AuditSinkRegistry).all()
      if (sink === undefined) throw new Error("no sink was registered")
      return sink
    }
  )
