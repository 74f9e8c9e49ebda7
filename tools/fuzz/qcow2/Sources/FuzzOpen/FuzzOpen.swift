// Opening: header, extensions, snapshot table, bitmap directory. Any bytes open or give one line.

import DiskTypes
import FuzzKit
import QCOW2

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ data: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
    guard let data else { return 0 }
    do {
        let image = try QCOW2Image(reading: FuzzImage(data, count))
        let header = image.header
        require(header.clusterSize >= 512 && header.clusterSize <= 2 << 20, "cluster size")
        require(QCOW2Map.cacheNeed(header) <= 1 << 43, "L1 within its limit")
        check(image.snapshots) { list in
            require(list.count == Int(header.snapshotCount), "all snapshots or none")
            for name in list.map(\.name).prefix(4) { _ = try? image.snapshot(name) }
        }
        check(image.bitmaps) { list in
            for bitmap in list { require(bitmap.granularity >= 512 && bitmap.name.utf8.count <= 1023, "bitmap") }
        }
    } catch {
        checkLine(error)
    }
    return 0
}

func check<T>(_ result: Result<T, ImageError>, _ body: (T) -> Void) {
    switch result {
    case .success(let value): body(value)
    case .failure(let error): checkLine(error)
    }
}

func checkLine(_ error: ImageError) {
    let line = error.description
    require(!line.isEmpty && line.utf8.count < 8192, "an error is one line")
    require(!line.unicodeScalars.contains { $0.value < 32 || $0.value == 127 }, "an error has no control characters")
}
