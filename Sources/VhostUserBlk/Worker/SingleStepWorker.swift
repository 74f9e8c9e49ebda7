// What a request costs on a worker is counted in instructions, which needs a worker that the counting program's loop
// drives, on one thread and without a front-end. Only a build for `make cost` has this file (Package.swift).
package import ImageChain
import LinuxIO
import Logging
import SystemPackage
package import Virtqueue

/// A worker that makes a pass only when it is told to. For the thread that makes it.
package final class SingleStepWorker {
    private let worker: QueueWorker

    /// Starts the queue. Throws an `Errno`, a `VirtqueueError` or an `ImageError`.
    package init(
        _ chain: ImageChain, memory: GuestMemorySnapshot, places: RingAddresses, size: Int, features: RingFeatures
    ) throws {
        let mailbox = try Mailbox<WorkerCommand>()
        worker = try QueueWorker(mailbox: mailbox, poll: .off, log: Logger(label: "qblk"))
        guard let disk = VirtioBlkDisk(capacityBytes: chain.size, isReadOnly: !chain.isWritable) else {
            throw Errno.invalidArgument
        }
        let start = QueueStart(
            id: QueueID(export: 0, index: 0), size: size, features: features, memory: memory,
            memoryFiles: [], places: places, base: features.contains(.packed) ? Virtqueue.packedBase : 0, inflight: nil,
            usedGuestAddress: 0, log: .off,
            logsRing: false, kick: nil, call: nil, err: nil, isEnabled: true, disk: disk, isDurable: false,
            export: ExportSettings(name: "alone", chain: chain, ignoresFlushes: false, discards: true))
        let answer = Answer<String?>()
        mailbox.post(.start(start, answer))
        worker.handleCommands()
        if answer.wait() != nil { throw Errno.invalidArgument }
    }

    /// One pass: takes chains in, gives back what is done.
    package func runOnce() { worker.runOnce() }
    /// What a worker does between two passes while there is work.
    package func handIn() { worker.ring.submitAndWait(0) }
}
