/**
 * A process that writes to an audit file: `node AuditWriter.ts FILE FROM BATCH FILLING MAX_BYTES`. It prints the number of
 * the next event after each batch that is on the disk, and ends at the first failure, which it prints, too, after trying one
 * single event more.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Effect } from "effect"
import { event, openSink } from "./AuditFile.ts"

const [path = "", from = "0", batch = "1", filling = "0", maxBytes = "1e9"] = process.argv.slice(2)
const say = (text: string) => Effect.sync(() => process.stdout.write(`${text}\n`))

NodeRuntime.runMain(Effect.scoped(Effect.gen(function*() {
  const sink = yield* openSink({ path, maxBytes: Number(maxBytes) })
  let next = Number(from)
  const write = (count: number, size: number) =>
    Effect.suspend(() => {
      const events = Array.from({ length: count }, (_, index) => event(next + index, "x".repeat(size)))
      const [first = event(next), ...rest] = events
      return Effect.andThen(sink.write([first, ...rest]), Effect.suspend(() => say(String(next += count))))
    })
  yield* write(Number(batch), Number(filling)).pipe(
    Effect.forever,
    Effect.catch((error) => Effect.andThen(say(error.message), Effect.ignore(write(1, 0))))
  )
})))
