/** What may be logged of a defect: its class and where it happened, but not its message, which may quote a prompt. */

/** Frames of the stack that are logged. */
const maxFrames = 12

/** The loggable part of a defect. */
export const describeDefect = (defect: unknown): { readonly defect: string; readonly at: ReadonlyArray<string> } => {
  if (!(defect instanceof Error)) return { defect: typeof defect, at: [] }
  const frames = (defect.stack ?? "").split("\n").map((line) => line.trim()).filter((line) => line.startsWith("at "))
  return { defect: defect.name, at: frames.slice(0, maxFrames) }
}
