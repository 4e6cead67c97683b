/** The usage sink that keeps nothing. */
import { Effect } from "effect"
import * as UsageSink from "../../../sdk/UsageSink.ts"

/** Registers a sink that takes every record and forgets it. */
export const layer = UsageSink.layer({ name: "noop", write: () => Effect.void })
