// The mounted FUSE file and its connection to the kernel. As long as a process holds the connection's descriptors,
// requests wait instead of failing; the supervisor does, so the connection outlives any server.
import CQblk
import DiskTypes
import Glibc
import LinuxIO
import SystemPackage

/// A mounted FUSE file and the descriptors that its requests come from. Closing the last of them ends it.
struct FuseConnection: ~Copyable {
    let mountPoint: FilePath
    /// One open /dev/fuse for each worker. The first is the one that was mounted; the others are its clones.
    let devices: [Int32]
    /// The kernel can send those requests again that a dead server had read.
    let canResend: Bool

    /// Mounts a file at `mountPoint`, an existing regular file, and negotiates the protocol. Throws `.system`.
    init(mountPoint: FilePath, file: FuseFile, name: FilePath, workers: Int) throws(ImageError) {
        var opened: [Int32] = []
        var mounted = false
        do throws(ImageError) {
            opened.append(try Self.openDevice())
            try Self.mount(opened[0], at: mountPoint, file: file, name: name)
            mounted = true
            let canResend = try Self.greet(opened[0], file: file)
            for _ in 1..<max(workers, 1) { opened.append(try Self.clone(of: opened[0])) }
            self.canResend = canResend
        } catch {
            for device in opened { close(device) }
            if mounted { Self.unmount(mountPoint) }
            throw error
        }
        self.mountPoint = mountPoint
        devices = opened
    }

    deinit {
        for device in devices { close(device) }
    }

    /// Makes the kernel send everything again that was read and not answered; false: it does not.
    borrowing func resend() -> Bool {
        guard canResend else { return false }
        let notice = fuse_out_header(
            len: UInt32(MemoryLayout<fuse_out_header>.size), error: QB_FUSE_NOTIFY_RESEND, unique: 0)
        return unsafe withUnsafeBytes(of: notice) { unsafe Glibc.write(devices[0], $0.baseAddress, $0.count) } == 16
    }

    private static func failed(_ what: String, advice: String? = nil) -> ImageError {
        ImageError(.system, "\(what): \(errorText(errno))", advice: advice)
    }

    private static func unmount(_ path: FilePath) {
        _ = unsafe path.withPlatformString { unsafe umount2($0, QB_MNT_DETACH) }
    }

    private static func openDevice() throws(ImageError) -> Int32 {
        let fd = unsafe open("/dev/fuse", O_RDWR | O_CLOEXEC)
        guard fd >= 0 else {
            throw failed("cannot open /dev/fuse", advice: "load the kernel module fuse (modprobe fuse)")
        }
        return fd
    }

    private static func clone(of device: Int32) throws(ImageError) -> Int32 {
        let fd = try openDevice()
        var source = UInt32(bitPattern: device)
        guard unsafe ioctl(fd, UInt(QB_FUSE_DEV_IOC_CLONE), &source) == 0 else {
            let error = failed("cannot share the FUSE connection")
            close(fd)
            throw error
        }
        return fd
    }

    private static func mount(
        _ device: Int32, at path: FilePath, file: FuseFile, name: FilePath
    ) throws(ImageError) {
        let rootMode = String(file.mode, radix: 8)
        let options = "fd=\(device),rootmode=\(rootMode),user_id=0,group_id=0,max_read=\(FuseLimits.maxRead)"
        let flags = UInt(MS_NOSUID) | UInt(MS_NODEV) | UInt(MS_NOEXEC) | (file.readOnly ? UInt(MS_RDONLY) : 0)
        let result = unsafe name.withPlatformString { source in
            unsafe path.withPlatformString { unsafe CQblk.mount(source, $0, "fuse.qblk", flags, options) }
        }
        guard result == 0 else { throw failed("cannot mount the FUSE file \(path)") }
    }

    /// Answers INIT, the first request of every connection; returns whether the kernel can send requests again.
    private static func greet(_ device: Int32, file: FuseFile) throws(ImageError) -> Bool {
        var waiting = pollfd(fd: device, events: Int16(POLLIN), revents: 0)
        guard unsafe poll(&waiting, 1, 10_000) == 1 else {
            throw ImageError(.system, "the kernel's FUSE does not begin to talk")
        }
        var bytes = [UInt64](repeating: 0, count: 1024)
        var answer = [UInt64](repeating: 0, count: FuseReplies.capacity / 8)
        let size = bytes.count * 8
        let count = unsafe Glibc.read(device, &bytes, size)
        guard count > 0 else { throw failed("cannot read from /dev/fuse") }
        var resends: Bool?
        let length = unsafe bytes.withUnsafeBytes { raw -> Int in
            guard let start = raw.baseAddress, let request = unsafe FuseRequest(start, count: count) else { return 0 }
            guard request.header.opcode == FuseOperation.initialize else { return 0 }
            resends = unsafe FuseInitOffer(request.body)?.canResend
            return unsafe answer.withUnsafeMutableBytes { out in
                guard let place = out.baseAddress else { return 0 }
                return unsafe FuseReplies(file: file).answer(request, into: place)
            }
        }
        guard let resends, length > 0, unsafe Glibc.write(device, answer, length) == length else {
            throw failed("the kernel's FUSE does not speak our protocol")
        }
        return resends
    }
}
