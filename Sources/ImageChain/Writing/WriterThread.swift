// The helper thread of an image that is written. It does with plain reads and writes what a request must not wait for on a
// worker: it loads and makes tables, makes the file longer, brings changes to the disk in the write order
// (WriteOrdering.md), and frees clusters once no old request can touch them.

import DiskTypes
import Glibc
import LinuxIO
import QCOW2
import Synchronization

/// The loop of one image's helper thread. It ends when the writer `quits` and nothing is left to do.
struct WriterThread: ThreadWork, ~Copyable {
    let writer: ImageWriter

    /// Clusters that the disk does not refer to any more, while requests that began before may still touch them.
    private struct Grace {
        let freed: FreedClusters
        let parity: Int
    }

    consuming func run() {
        var waiting = FreedClusters()
        var grace: Grace?
        while true {
            let quits = writer.quits.load(ordering: .sequentiallyConsistent)
            let pause: Int32 = quits ? 0 : grace != nil ? 1 : writer.plan.isDirty ? 5000 : -1
            let isCalled = (try? writer.event.wait(milliseconds: pause)) ?? true
            writer.event.take()
            waiting.append(runTasks())
            let mustWrite = satisfyPrerequisites()
            let target = writer.flushes.pending
            let isIdle = !isCalled && grace == nil
            if target != nil || mustWrite || writer.plan.isFull || (isIdle || quits) && writer.plan.isDirty {
                waiting.append(writeBack(upTo: target, isAwaited: mustWrite))
            }
            if let old = grace, quits || writer.clients.haveFinished(old.parity) {
                release(old.freed)
                grace = nil
            }
            if grace == nil, !waiting.isEmpty {
                grace = Grace(freed: waiting, parity: writer.clients.beginEpoch(writer.epoch))
                waiting = FreedClusters()
            }
            if quits, grace == nil, waiting.isEmpty, target == nil { return }
        }
    }

    private func release(_ freed: FreedClusters) {
        do throws(ImageError) {
            try writer.plan.release(
                freed, storage: writer.storage, discards: writer.discards.load(ordering: .relaxed))
        } catch {}  // They are leaks, which a check finds.
        writer.clients.notifyWaiters()
    }

    /// Loads, makes and prepares what writes wait for. True when a write-back is asked for.
    private func satisfyPrerequisites() -> Bool {
        let list = writer.plan.takePrerequisites()
        for next in list where next != .writeBack {
            do throws(ImageError) { try writer.plan.satisfy(next, writer.storage) } catch {
                writer.plan.fail(next, error.answer)
            }
        }
        if !list.isEmpty { writer.clients.notifyWaiters() }
        return list.contains(.writeBack)
    }

    /// Brings all changes to the disk and ends the flushes up to `target`. `isAwaited`: writes wait for L2 slices to leave
    /// memory; when they cannot, those writes get the error. Gives what became free.
    private func writeBack(upTo target: UInt64?, isAwaited: Bool) -> FreedClusters {
        var error: Int32 = 0
        var freed = FreedClusters()
        if let lost = writer.plan.syncFailure {
            error = lost
        } else {
            do throws(ImageError) {
                freed = try writer.plan.writeBack(to: writer.storage, data: writer.data)
            } catch let failure {
                error = failure.answer
                if writer.plan.hasFailedSync { writer.foundLoss(error) }
            }
        }
        if isAwaited, error != 0 { writer.plan.fail(.writeBack, error) }
        if let target { writer.flushes.end(target, error) }
        writer.clients.notifyWaiters()
        return freed
    }

    // MARK: tasks

    /// Does what other threads wait for. Gives what became free on the way.
    private func runTasks() -> FreedClusters {
        var freed = FreedClusters()
        for task in writer.tasks.takeAll() {
            do throws(ImageError) {
                guard let journal = task.journal else {
                    freed.append(try bringAll())
                    task.outcome.post(.success(.fresh))
                    continue
                }
                task.outcome.post(.success(try use(journal)))
            } catch { task.outcome.post(.failure(error)) }
        }
        return freed
    }

    private func bringAll() throws(ImageError) -> FreedClusters {
        if let lost = writer.plan.syncFailure {
            throw ImageError(.system, "a flush has failed before", number: lost)
        }
        try writer.plan.giveBackReserved(writer.storage)
        return try writer.plan.writeBack(to: writer.storage, data: writer.data)
    }

    private func use(_ journal: MappingJournal) throws(ImageError) -> JournalReplay {
        let file = writer.storage.identity
        let outcome = try writer.plan.use(
            journal, identity: file.device &* 0x9e37_79b9_7f4a_7c15 ^ file.inode, storage: writer.storage,
            data: writer.data)
        switch outcome {
        case .fresh, .changes: break
        // The killed process left no number.
        case .afterFailure: writer.foundLoss(EIO)
        case .refused: writer.flushes.failNext()
        }
        return outcome
    }
}
