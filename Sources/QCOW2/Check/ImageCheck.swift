// The two things one can ask of an image's metadata: is it right, and make it right. Both work on any storage, so
// crash tests ask them of images in memory.

public import DiskTypes

/// Checks and repairs QCOW2 metadata.
public enum ImageCheck {
    /// Checks every reference and refcount, COPIED flags and the rules of all entries. Changes nothing.
    ///
    /// Throws when the image cannot be checked: no valid header, an I/O error, an interruption.
    public static func check(
        _ storage: some ByteSource, _ options: CheckOptions = CheckOptions()
    ) throws(ImageError) -> CheckReport {
        let checker = try ImageChecker(storage, options)
        try checker.run()
        return checker.report
    }

    /// Checks, puts right what `mode` allows, and checks again: the report says what is left, and how much was fixed.
    /// `found` hears the first check's report.
    ///
    /// The write order, with an fdatasync between the steps, so that a crash in any gap leaves leaks or flags to fix but
    /// never a cluster that is used and counted free:
    ///
    /// 1. Unknown autoclear bits are cleared, as any writer must that does not know them.
    /// 2. Refcounts go up where references are missing. Where blocks or the table are missing or cannot be used, a whole
    ///    new structure is written behind everything else first, then the header switches to it in one write.
    /// 3. COPIED flags are put right. (One too many lets a writer change shared data: none survives step 2 for long.)
    /// 4. Refcounts go down to give leaks back; not while an entry is damaged that may have meant those clusters.
    /// 5. A check of its own finds nothing corrupt but incomplete entries of the snapshot table: a complete table is written
    ///    elsewhere, then the header switches to it in one write, then the old one is free.
    /// 6. A check of its own finds nothing corrupt: the dirty and corrupt bits are cleared, last of all.
    ///
    /// Entries that point nowhere are left as they are: a repair never guesses at data and never drops any.
    public static func repair(
        _ storage: some ResizableStorage, _ mode: RepairMode, _ options: CheckOptions = CheckOptions(),
        found: (CheckReport) -> Void = { _ in }
    ) throws(ImageError) -> CheckReport {
        let checker = try ImageChecker(storage, options)
        try checker.run()
        let before = checker.report
        found(before)
        let repair = ImageRepair(checker, storage)
        if before.verdict != .clean { try repair.run(mode) }
        let completes = mode == .all && checker.incompleteSnapshots > 0
        guard
            repair.hasWritten || completes
                || checker.header.incompatible.intersection([.dirty, .corrupt]).rawValue != 0
        else { return before }
        try checker.stopIfInterrupted()
        var second = try ImageChecker(storage, options)
        try second.run()
        if completes, second.report.corruptions == second.incompleteSnapshots {
            try completeSnapshots(storage)
            second = try ImageChecker(storage, options)
            try second.run()
        }
        var after = second.report
        if after.corruptions == 0 { try ImageRepair(second, storage).clearBits() }
        after.corruptionsFixed = before.corruptions - min(after.corruptions, before.corruptions)
        after.leaksFixed = before.leaks - min(after.leaks, before.leaks)
        return after
    }
}
