/** `llm-gateway audit`: what an operator does with the files of audit events. */
import { Console, Effect, Option } from "effect"
import { Argument, CliError, Command, Flag } from "effect/cli"
import { type ChainReport, verify, type VerifyOptions } from "../plugins/audit/jsonl/Verify.ts"

const failed = (message: string) => Effect.fail(new CliError.UserError({ cause: message, userMessage: message }))

const hex = /^[0-9a-f]{64}$/i

const summary = ({ first, head, lines }: ChainReport): string =>
  head === undefined || first === undefined
    ? "no lines"
    : `${lines} lines, ${first} to ${head.seq}; head ${head.hash}`

/** Prints where the chain in the files is broken; ends with code 1 where it is, or where a file cannot be read. */
const run = Effect.fnUntraced(function*(files: ReadonlyArray<string>, options: VerifyOptions) {
  if (options.head !== undefined && !hex.test(options.head.hash)) {
    return yield* failed("--head has to be the SHA-256 of a line, 64 hexadecimal digits")
  }
  const report = yield* Effect.catchTag(verify(files, options), "UnreadableFile", ({ message }) => failed(message))
  for (const { file, kind, line, message } of report.problems) {
    yield* Console.log(`${file}:${line}: ${kind}: ${message}`)
  }
  const [first] = report.problems
  if (first === undefined) return yield* Console.log(`the chain is whole: ${summary(report)}`)
  return yield* failed(`the chain is broken at ${first.file}:${first.line}`)
})

const verifyCommand = Command.make("verify", {
  files: Argument.Path("file").pipe(
    Argument.withDescription("The files of one chain, such as audit.jsonl*"),
    Argument.variadic({ min: 1 })
  ),
  head: Flag.String("head").pipe(
    Flag.withDescription("A hash that was kept elsewhere: the chain has to contain the line with it"),
    Flag.optional
  ),
  seq: Flag.Int("seq").pipe(
    Flag.withDescription("The number of the line that has to have the hash of --head"),
    Flag.optional
  ),
  from: Flag.Int("from").pipe(
    Flag.withDescription("The number that the first line has to have, where older files are kept elsewhere; default 1"),
    Flag.optional
  )
}, ({ files, from, head, seq }) => {
  if (Option.isSome(seq) && Option.isNone(head)) return failed("--seq says where --head stands, and needs it")
  return run(files, {
    ...(Option.isNone(from) ? {} : { from: from.value }),
    ...(Option.isNone(head)
      ? {}
      : { head: { hash: head.value.toLowerCase(), ...(Option.isNone(seq) ? {} : { seq: seq.value }) } })
  })
}).pipe(Command.withDescription("Finds changed, missing, inserted and reordered lines in files of audit events"))

/** The command with its subcommands. */
export const auditCommand = Command.make("audit").pipe(
  Command.withDescription("Works on the files of audit events"),
  Command.withSubcommands([verifyCommand])
)
