/** No audit at all: no sink is registered, so the gateway does not even collect what an event would need. */
import { Layer } from "effect"

/** Registers nothing. */
export const layer: Layer.Layer<never> = Layer.empty
