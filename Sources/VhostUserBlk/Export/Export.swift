// One disk of the process as sessions see it: what it is, how many queues it has, and which worker carries each. It
// outlives connections: a front-end that comes back finds the cache mode that its guest chose.
import BlockEngine
import DiskTypes
public import ImageChain
import LinuxIO
import Logging
import Synchronization
import SystemPackage
import Virtqueue

/// What `--cache` means, in QEMU's words. Whether data goes past the page cache is decided when the chain is opened.
public struct CachePolicy: Sendable, Equatable {
    /// Writes are answered before they are durable; the guest flushes.
    public var isWriteback: Bool
    /// Flushes do nothing.
    public var ignoresFlushes: Bool
    public init(isWriteback: Bool = true, ignoresFlushes: Bool = false) {
        self.isWriteback = isWriteback
        self.ignoresFlushes = ignoresFlushes
    }
}

/// A disk to serve.
public struct ExportOptions: Sendable {
    public var chain: ImageChain
    /// Shown in messages.
    public var name: String
    public var queueCount: Int = 1
    public var serial: String = "qblk"
    public var blockSize: Int = 512
    public var cache = CachePolicy()
    public var discards = true
    /// Lets the image go where the guest goes: it is given back when the last ring stops in a migration, and opened with
    /// this when rings start again. Nil: it stays open from the first moment to the last.
    public var reopen: ImageOpener?
    /// `chain` is only looked at, without locks: the guest is still elsewhere, and so is the image. Needs `reopen`, which
    /// opens it for writing.
    public var isIncoming = false

    public init(chain: ImageChain, name: String) {
        self.chain = chain
        self.name = name
    }
}

/// An export of the running process.
final class Export: Sendable {
    let number: Int
    let name: String
    let queueCount: Int
    let image: MigratableImage
    /// The mapping changes while rings run: a record of requests in flight has a journal.
    let hasJournal: Bool
    let workers: [Mailbox<WorkerCommand>]
    let log: Logger
    /// Signalled when the disk's size changed.
    let resized: EventFD
    /// The cache mode before a guest chooses one.
    let startsWriteback: Bool
    private let firstQueue: Int
    private let ignoresFlushes: Bool
    private let discards: Bool
    private let over = Atomic<Bool>(false)
    private let current: Mutex<VirtioBlkDisk>
    private let lastTrouble = Mutex<String?>(nil)

    /// The disk as it is now: its size, and the cache mode that the guest chose.
    var disk: VirtioBlkDisk { current.withLock { $0 } }
    func change(_ body: (inout VirtioBlkDisk) -> Void) { current.withLock { body(&$0) } }

    /// Says why a connection was closed. A front-end that comes back ten times a second for the same answer is logged once.
    func sayBroken(_ why: String) {
        let isNews = lastTrouble.withLock { last in
            defer { last = why }
            return last != why
        }
        log.log(level: isNews ? .error : .debug, "\(name): connection closed: \(why)")
    }

    /// A front-end is served: what went wrong before is over, and news when it happens again.
    func forgetTrouble() { lastTrouble.withLock { $0 = nil } }

    /// No front-end will come any more.
    var isOver: Bool { over.load(ordering: .relaxed) }
    func end() { over.store(true, ordering: .relaxed) }

    /// `firstQueue`: queues of the exports before, so that all of them are dealt over all workers.
    init(
        _ options: ExportOptions, number: Int, firstQueue: Int, workers: [Mailbox<WorkerCommand>], log: Logger
    ) throws(Errno) {
        let resized = try EventFD()
        let isWritable = options.isIncoming || options.chain.isWritable
        guard
            var disk = VirtioBlkDisk(
                capacityBytes: options.chain.size, blockSize: UInt32(options.blockSize),
                isReadOnly: !isWritable, queueCount: UInt16(options.queueCount), serial: options.serial)
        else { throw .invalidArgument }
        self.resized = resized
        disk.isWriteback = options.cache.isWriteback
        startsWriteback = options.cache.isWriteback
        hasJournal = isWritable && !options.chain.isRaw
        image = MigratableImage(options.isIncoming ? nil : options.chain, open: options.reopen)
        options.chain.writer?.returnsSpace(options.discards)
        current = Mutex(disk)
        self.number = number
        name = options.name
        queueCount = options.queueCount
        ignoresFlushes = options.cache.ignoresFlushes
        discards = options.discards
        self.workers = workers
        self.log = log
        self.firstQueue = firstQueue
    }

    /// What workers need to know, with the image as it is now.
    func settings(_ chain: ImageChain) -> ExportSettings {
        ExportSettings(name: name, chain: chain, ignoresFlushes: ignoresFlushes, discards: discards)
    }

    /// The image, which is fetched first if it was elsewhere.
    func takeImage() throws(ImageError) -> (chain: ImageChain, isNew: Bool) {
        let taken = try image.acquire()
        guard taken.isNew else { return taken }
        taken.chain.writer?.returnsSpace(discards)
        change { $0.capacity = taken.chain.size >> VirtioBlk.sectorBits }
        return taken
    }

    func worker(of index: Int) -> Mailbox<WorkerCommand> { workers[(firstQueue + index) % workers.count] }
}
