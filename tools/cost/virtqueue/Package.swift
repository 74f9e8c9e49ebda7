// swift-tools-version: 6.3
// The instruction count of the rings alone, apart from the product it looks at; `cost` beside this file builds and runs it.
import PackageDescription

let package = Package(
    name: "cost-virtqueue",
    dependencies: [.package(name: "qblk", path: "../../..")],
    targets: [
        .executableTarget(name: "VirtqueueCost", dependencies: [.product(name: "VirtqueueParts", package: "qblk")])
    ],
    swiftLanguageModes: [.v6]
)
