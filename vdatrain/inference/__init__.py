"""Disparity of videos with a trained model, and trained models as files for others.

predictor      the model, and predictions of arrays, videos and files
loading        a predictor of a checkpoint or of published weights
long_video     windows of a long video, aligned and blended
features       what the encoder makes of a window's frames, each encoded once
video          what a source of frames is
video_reader   frames of anything: chooses between the next two, and reads shards
video_file     frames of video files
image_folder   frames of folders of images
presentation   which way up a frame is shown, with which pixel shape, and when
labelling      shards of kind `relative`, whose depth a model predicted
video_writer   disparity as a video, images or an array
export         weights under the published names, ONNX
stream_graph   a stream's next frame as a function of tensors alone
"""
