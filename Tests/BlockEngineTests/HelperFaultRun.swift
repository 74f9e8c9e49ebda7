// What the helper of an image writes goes by no ring: tables, syncs, the file's length. The same requests as
// in FaultRun, during which one of its calls fails and does nothing, or writes a half.
import BlockEngine
import DiskTypes
import FailCalls
import Glibc
import ImageChain
import TestKit

/// How a run ended of which one call failed.
struct CallOutcome {
    var trouble: String?
    var calls = 0
    var kind = QBLK_CALL_NONE
    /// The file was not brought to its end: what is left over are leaks.
    var mayLeak = false
    /// A sync failed: nothing that came after the last good one need be there.
    var isLost: Bool { kind == QBLK_CALL_SYNC }
}

extension FaultRun {
    func run(failingCall: Int, _ fault: RingFault) throws -> CallOutcome {
        try images.run("cp --reflink=never start.img a.img")
        let chain = try images.open("a.img", direct: direct, l2CacheLimit: 1, writable: true, format: .qcow2)
        var status = stat()
        guard stat(images.path("a.img"), &status) == 0 else { throw TestFailure("there is no image") }
        qblk_fail_call(UInt64(status.st_dev), UInt64(status.st_ino), failingCall, fault == .short ? 0 : fault.error)
        defer { qblk_fail_none() }
        var outcome = CallOutcome()
        do {
            let harness = try EngineHarness(chain, slots: Self.slots, maxIovecs: 2)
            outcome.trouble = work(harness) ?? bring(harness, fault) ?? judge(harness.read(0, Self.size))
        }
        let before = Int(qblk_failed_kind())
        do { try chain.closeAndUnlock() } catch {
            outcome.mayLeak = true
            let isNew = before != Int(qblk_failed_kind())
            if !isNew, before != QBLK_CALL_SYNC { outcome.trouble = "the end fails by itself: \(error)" }
        }
        outcome.kind = Int(qblk_failed_kind())
        outcome.calls = Int(qblk_calls())
        if outcome.isLost { outcome.mayLeak = true }
        return outcome
    }

    /// Everything reaches the disk. When a call fails on the way the next try succeeds, except after a failed sync.
    private func bring(_ harness: EngineHarness, _ fault: RingFault) -> String? {
        for attempt in 1...3 {
            harness.engine.submit(BlockRequest(.flush, slot: 0))
            guard let flush = harness.wait() else { return "a flush is stuck" }
            let kind = Int(qblk_failed_kind())
            let isLost = kind == QBLK_CALL_SYNC
            if flush.error != 0 { failures.append(flush.error) }
            if kind == QBLK_CALL_NONE, !failures.isEmpty {
                return "no call failed, and requests did: \(failures)"
            }
            guard failures.allSatisfy({ $0 == fault.error || $0 == EIO }) else { return "the wrong error: \(failures)" }
            if isLost { return flush.error == 0 ? "a flush succeeds after a failed sync" : nil }
            if flush.error == 0 { return nil }
            if attempt == 2 { return "flushes go on failing: \(failures)" }
        }
        return nil
    }
}
