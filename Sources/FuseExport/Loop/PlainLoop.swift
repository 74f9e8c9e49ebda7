// A loop device on a raw image itself, without FUSE. The loop driver reads it faster than any server could, and no
// process has to stay; the image's locks stay with the open file that the device holds.
import DiskTypes
import Glibc
import ImageChain
import LinuxIO
import Logging
import MapRegistry
import SystemPackage

/// The map of a raw image.
enum PlainLoop {
    /// Whether the chain is one raw file that a loop device shows byte for byte.
    static func suits(_ chain: ImageChain, blockSize: Int) -> Bool {
        guard chain.layers.count == 1, chain.files.count == 1, chain.layers[0].format == .raw else { return false }
        let file = chain.files[0]
        // The loop driver leaves out a last part of a sector; the engine fills it with zeros.
        return file.length == chain.size && file.length % UInt64(blockSize) == 0 && file.length > 0
    }

    /// Makes the map. Until `write` has written the record, the device ends with this process: when it is killed,
    /// nothing is left.
    static func map(
        _ chain: ImageChain, name: String, image: FilePath, readOnly: Bool, blockSize: Int,
        write: (MapRecord) throws(ImageError) -> Void
    ) throws(ImageError) -> MapRecord {
        if !readOnly { try WriterLock.take(on: chain.files[0]) }
        let device = try LoopDevice.attach(
            fd: chain.files[0].fd, readOnly: readOnly, directIO: true, partitionScan: true, autoClear: true,
            blockSize: UInt32(truncatingIfNeeded: blockSize), name: image)
        var record = MapRecord(
            name: name, image: image, format: ImageFormat.raw.rawValue, size: chain.size, how: .loop,
            device: device.path, readOnly: readOnly, created: Int64(time(nil)))
        record.loops = [device.number]
        record.imageIdentity = chain.files[0].identity
        do throws(ImageError) {
            try write(record)
            try device.keep()
        } catch {
            device.release()
            throw error
        }
        return record
    }

    /// `--foreground`: waits until SIGTERM or SIGINT takes the map down (which fails while it is in use), or an unmap
    /// has.
    static func stay(_ record: MapRecord, log: Logger) throws(ImageError) {
        let signals: SignalFD
        do throws(Errno) { signals = try SignalFD([SIGTERM, SIGINT, SIGHUP]) } catch {
            throw ImageError(.system, "cannot take in signals: \(errorText(error.rawValue))")
        }
        while record.loops.first.map(record.ownsLoop) ?? false {
            var entry = pollfd(fd: signals.raw, events: Int16(POLLIN), revents: 0)
            unsafe poll(&entry, 1, 1000)
            guard let next = signals.next(), next.signal != SIGHUP else { continue }
            do throws(ImageError) { _ = try LoopCleanup.clean(record, deferred: false) } catch {
                log.warning("\(error): not taken down")
            }
        }
    }
}
