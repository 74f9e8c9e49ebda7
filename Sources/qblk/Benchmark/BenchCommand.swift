// The command `qblk bench`: its options, and the exit code. BlockBench measures, BenchOutput prints.

public import ArgumentParser
public import BlockBench
import DiskTypes
import ImageChain
import ImageOperations
import SystemPackage
import LinuxIO

extension AccessPattern: ExpressibleByArgument {}
extension WaitMode: ExpressibleByArgument {}

struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measures a vhost-user socket, a block device or an image.",
        discussion: """
            A socket is driven as a virtual machine would drive it, by virtqueues; a raw file or a device by io_uring; \
            a qcow2 image by qblk's own engine. Each queue has a thread of its own. Whatever writes needs --destroy, \
            because it overwrites the disk.

            With --verify every block that is written says where and when it was, each read of it is checked, and at \
            the end all of them are read again. With --verify and reads alone, all blocks must have been written by a \
            run with the same --seed, --bs and --queues. A mismatch is exit code 1; it is told where.

            Example:
              qblk bench /run/disk.sock --rw randread --iodepth 128 --queues 2 --seconds 5
              truncate -s 1G scratch.img
              qblk bench -f raw --destroy --rw randwrite --verify scratch.img
            """)

    @Option(name: .long, help: "randread, randwrite, read, write or randrw.")
    var rw = AccessPattern.randread

    @Option(name: .long, help: ArgumentHelp("Bytes of a request (k, M).", valueName: "size"))
    var bs = ByteCount(4096)

    @Option(name: .long, help: ArgumentHelp("Requests in flight in each queue.", valueName: "count"))
    var iodepth = 32

    @Option(name: .long, help: ArgumentHelp("Queues, a thread each.", valueName: "count"))
    var queues = 1

    @Option(name: .long, help: "How long to measure.")
    var seconds = 5.0

    @Option(name: .long, help: ArgumentHelp("End after so many requests, over all queues.", valueName: "count"))
    var requests: UInt64?

    @Option(name: .long, help: ArgumentHelp("Work on so many bytes from the disk's start only.", valueName: "size"))
    var size: ByteCount?

    @Option(name: .customLong("rwmixread"), help: ArgumentHelp("Share of reads in randrw.", valueName: "percent"))
    var readPercent = 70

    @Option(name: .long, help: ArgumentHelp("Another seed is another sequence of blocks.", valueName: "number"))
    var seed: UInt64 = 1

    @Flag(name: .long, help: "Write a pattern and check what is read.")
    var verify = false

    @Flag(name: .long, help: "Allow to overwrite what is on the disk.")
    var destroy = false

    @Option(
        name: .long,
        help: ArgumentHelp("poll: look at the ring all the time. interrupt: sleep till signalled. Sockets only."))
    var wait = WaitMode.poll

    @Option(
        name: .long,
        help: ArgumentHelp(
            "With poll: gather so many answers before new requests. Default: an eighth of the depth.",
            valueName: "count"))
    var batch: Int?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "A flush after every so many writes of a queue. It is in flight beside them.", valueName: "count"))
    var flushEvery: Int?

    @Flag(name: .long, help: "Packed rings. Sockets only.")
    var packed = false

    @Option(
        name: [.customShort("t"), .long],
        help: ArgumentHelp("Of files and devices: none (O_DIRECT where possible) or writeback.", valueName: "cache"))
    var cache = CacheMode.none

    @OptionGroup var image: ImageOptions
    @OptionGroup var output: OutputOptions

    @Argument(help: "The socket, device or image.")
    var target: FilePath

    var options: BenchOptions {
        var options = BenchOptions()
        options.pattern = rw
        options.blockBytes = Int(clamping: bs.bytes)
        options.depth = iodepth
        options.queues = queues
        options.seconds = seconds
        options.requests = requests
        options.size = size?.bytes
        options.readPercent = readPercent
        options.seed = seed
        options.wait = wait
        options.batch = batch
        options.flushEvery = flushEvery
        options.packed = packed
        options.verify = verify
        options.destroy = destroy
        options.open = image.open
        options.open.direct = cache.isDirect
        return options
    }

    func validate() throws {
        if let problem = options.problem { throw ValidationError(problem) }
    }

    func run() throws {
        let cancel = Interrupts.watch()
        let report = try BlockBench.run(target, options) { cancel.isSet }
        var out = Output()
        out.text(output.isJSON ? report.json(target).text + "\n" : report.text(target))
        try out.flush()
        if let mismatch = report.mismatch { throw Failure("\(target): \(mismatch)") }
        if report.errors > 0 {
            throw Failure(
                "\(target): \(report.errors) requests failed, the first at offset \(hex(report.firstError)), "
                    + "the last with: \(report.lastErrorText)")
        }
        if report.wasInterrupted { throw Failure(code: 1) }
    }
}
