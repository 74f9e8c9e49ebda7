// What a request costs on a worker is counted in instructions, which needs a worker that a caller else's loop drives,
// on one thread and without a front-end. Nothing that serves uses this.
package import ImageChain
import LinuxIO
import Logging
import SystemPackage
package import Virtqueue

/// A worker with one queue that runs only when it is told to. Confined to the thread that makes it.
package final class SingleStepWorker {
    private let worker: QueueWorker

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

    /// One turn: takes chains in, gives back what is done.
    package func runOnce() { worker.runOnce() }
    /// What a worker does between two turns while there is work.
    package func handIn() { worker.ring.submitAndWait(0) }
}
