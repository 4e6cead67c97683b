/**
 * What a detector is: something that tells whether a match begins at one place of a text. It reads a bounded number of
 * characters from there on, so that finding all matches takes time linear in the text; and it tells apart "none" from "not
 * yet to be said", so that the same detector serves whole texts and texts that are still on their way.
 *
 * The law that streams rest on: what a detector says of a beginning of a text, other than `more`, it says of the whole text.
 */

/** No match begins here. */
export const none = -1
/** Whether one does depends on text that has not come yet. */
export const more = -2

/** Finds one kind of thing. */
export interface Detector {
  /** What is found, as placeholders name it: `EMAIL`. */
  readonly kind: string
  /** What is found, as a person says it: `an e-mail address`. */
  readonly noun: string
  /**
   * Where the match that begins at `at` ends, or `none`, or `more`; `final` says that nothing comes after the text. What
   * stands before `at` is context: its last two units are there, and it is empty only at the text's very beginning.
   */
  readonly match: (text: string, at: number, final: boolean) => number
  /** Whether a match can begin with this UTF-16 unit, where it is ASCII; with any other one can. */
  readonly mayBeginWith: (unit: number) => boolean
  /** Whether a match can begin with a unit beyond ASCII. */
  readonly beyondAscii: boolean
  /** What every match holds; a whole text without it is not looked through. One character of a class: cheap to test. */
  readonly needs?: RegExp
}

// ---------------------------------------------------------------------------------------------------------------------
// Characters
// ---------------------------------------------------------------------------------------------------------------------

/** Whether a UTF-16 unit is an ASCII digit. */
export const isDigit = (unit: number): boolean => unit >= 48 && unit <= 57

/** Whether a UTF-16 unit is a letter of ASCII, or a Latin, Greek or Cyrillic one. Scripts without spaces separate words. */
export const isLetter = (unit: number): boolean =>
  (unit >= 97 && unit <= 122) || (unit >= 65 && unit <= 90) ||
  (unit >= 0xC0 && unit <= 0x52F && unit !== 0xD7 && unit !== 0xF7)

const asciiWord = Uint8Array.from({ length: 128 }, (_, unit) => isDigit(unit) || isLetter(unit) || unit === 95 ? 1 : 0)

/** Whether a UTF-16 unit belongs to a word. `NaN`, which is what stands beyond a text, does not. */
export const isWord = (unit: number): boolean => unit < 128 ? asciiWord[unit] === 1 : isLetter(unit)

/** Whether a word may begin at `at`. */
export const atBoundary = (text: string, at: number): boolean => at === 0 || !isWord(text.charCodeAt(at - 1))
