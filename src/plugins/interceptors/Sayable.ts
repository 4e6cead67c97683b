/** What others say, made fit for an error's message or a tag: one line, printable, bounded. */

const maxReason = 300

/** Everything that is not a visible character or a space, line breaks and invisible marks included. */
const unprintable = /[\p{C}\p{Z}]+/gu

/** A text on one line without control characters, of at most so many UTF-16 units. */
export const oneLine = (text: string, most: number): string =>
  text.slice(0, most * 4).toWellFormed().replace(unprintable, " ").trim().slice(0, most)

/** A reason as a service gave it. */
export const sayable = (reason: string | undefined): string =>
  (reason === undefined ? "" : oneLine(reason, maxReason)) || "no reason was given"
